from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.domain.job import Progress, Requirement, State
from controlplane.engine.ports import JobFilter
from tests.support.builders import EPOCH_US, attempt, endpoint, event, job, new_job, uid
from tests.support.former import owe_endpoints


async def test_a_job_comes_back_as_it_was_stored(store):
    new = new_job(
        job(job_id="mine", max_attempts=7),
        priority=90,
        labels={"team": "nlp", "größe": "ü"},
        warnings='[{"field":"f"}]',
        secret_macs='{"a":"b"}',
        output_uri="s3://b/x",
        sent='{"job_id":"mine"}',
    )

    assert await store.write(lambda tx: tx.insert_jobs([new])) == {new.job.uid}

    record = await store.read(lambda tx: tx.record("default", "mine"))
    assert record.job == new.job
    assert (record.priority, record.create_time_us, record.sent) == (90, EPOCH_US, '{"job_id":"mine"}')
    assert (record.labels, record.warnings, record.secret_macs) == (new.labels, new.warnings, new.secret_macs)
    assert (record.output_uri, record.pending_reason, record.base_model_commit, record.retry_of, record.attempts) == (
        "s3://b/x",
        "",
        "",
        "",
        (),
    )


async def test_a_taken_name_is_passed_over_and_what_has_it_stays(store):
    first, second, other = (new_job(job(job_id=name)) for name in ("a", "a", "b"))
    await store.write(lambda tx: tx.insert_jobs([first]))

    assert await store.write(lambda tx: tx.insert_jobs([second, other])) == {other.job.uid}
    assert await store.read(lambda tx: tx.find_job("default", "a")) == first.job
    assert await store.read(lambda tx: tx.job(second.job.uid)) is None


async def test_of_two_jobs_of_one_name_in_one_batch_the_first_is_stored(store):
    first, second = new_job(job(job_id="a")), new_job(job(job_id="a"))

    assert await store.write(lambda tx: tx.insert_jobs([first, second])) == {first.job.uid}


async def test_inserting_a_stored_job_again_stores_nothing(store):
    new = new_job(labels={"k": "v"})
    await store.write(lambda tx: tx.insert_jobs([new]))

    assert await store.write(lambda tx: tx.insert_jobs([new])) == frozenset()


async def test_names_are_free_in_each_project(store):
    ours, theirs = new_job(job(job_id="a")), new_job(job(job_id="a", project="other"))

    assert await store.write(lambda tx: tx.insert_jobs([ours, theirs])) == {ours.job.uid, theirs.job.uid}
    assert await store.read(lambda tx: tx.find_job("other", "a")) == theirs.job
    assert await store.read(lambda tx: tx.record("nobody", "a")) is None


async def test_a_full_batch_is_stored_whole(store):
    batch = [new_job(labels={"n": str(number)}) for number in range(256)]

    stored = await store.write(lambda tx: tx.insert_jobs(batch))

    assert stored == {new.job.uid for new in batch}
    assert await store.read(lambda tx: tx.jobs(stored)) == {new.job.uid: new.job for new in batch}


async def test_no_jobs_are_no_statement(store):
    assert await store.write(lambda tx: (tx.insert_jobs([]), tx.jobs([]), tx.save_jobs([]), tx.append_events([]))) == (
        frozenset(),
        {},
        None,
        None,
    )


async def test_saving_writes_every_field_but_the_names(store):
    made = job()
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))
    changed = replace(
        made,
        state=State.FAILED,
        phase="TRAINING",
        reason="STALLED",
        message="no step for 10 minutes",
        attempt=2,
        failures=1,
        losses=3,
        max_attempts=5,
        granted=True,
        pause_wanted=True,
        not_before_us=11,
        last_sequence=9_999_999_999,
        progress=Progress(3, 10, 0.3, 1.25, 2e-4, 0.8, 3100.5, 8.5e10, EPOCH_US),
        start_time_us=1,
        update_time_us=2,
        end_time_us=3,
    )

    await store.write(lambda tx: tx.save_jobs([changed]))

    assert await store.read(lambda tx: tx.job(made.uid)) == changed


async def test_unknown_jobs_are_absent(store):
    made = job()
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))

    assert await store.read(lambda tx: tx.jobs([made.uid, "nobody"])) == {made.uid: made}
    assert await store.read(lambda tx: (tx.job("nobody"), tx.find_job("default", "nobody"))) == (None, None)


async def test_recovering_jobs_come_back_when_their_time_has_passed(store):
    early, late, other = (
        replace(job(), state=state, not_before_us=at)
        for state, at in ((State.RECOVERING, 10), (State.RECOVERING, 20), (State.QUEUED, 5))
    )
    await store.write(lambda tx: tx.insert_jobs([new_job(early), new_job(late), new_job(other)]))

    assert await store.write(lambda tx: tx.recovering_jobs(due_us=9)) == []
    assert await store.write(lambda tx: tx.recovering_jobs(due_us=10)) == [early]
    assert await store.write(lambda tx: tx.recovering_jobs(due_us=20)) == [early, late]


async def test_secrets_are_kept_until_they_are_overwritten(store):
    made = job()
    new = new_job(made, sealed_secrets=b"\x00sealed", endpoints=(endpoint(made),))
    uid = new.job.uid
    await store.write(lambda tx: tx.insert_jobs([new]))

    sealed = await store.read(lambda tx: tx.sealed_secrets(uid))
    assert (sealed.uid, sealed.sealed, sealed.webhook) == (uid, b"\x00sealed", True)
    await store.write(lambda tx: tx.set_sealed_secrets(uid, b"less"))
    assert (await store.read(lambda tx: tx.sealed_secrets(uid))).sealed == b"less"
    await store.write(lambda tx: tx.set_sealed_secrets(uid, b""))
    assert (await store.read(lambda tx: tx.sealed_secrets(uid))).sealed == b""
    assert await store.read(lambda tx: tx.sealed_secrets("nobody")) is None


async def test_the_effective_spec_is_empty_before_it_is_set(store):
    made = job()
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))

    assert await store.read(lambda tx: tx.effective_spec(made.uid)) == ""
    await store.write(lambda tx: tx.set_effective_spec(made.uid, '{"rank":8}'))
    assert await store.read(lambda tx: tx.effective_spec(made.uid)) == '{"rank":8}'


async def test_the_commit_of_the_base_model_is_shown_once_it_is_known(store):
    made = job()
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))

    def shown(tx):
        return tx.record(made.project, made.job_id).base_model_commit

    assert await store.read(shown) == ""
    await store.write(lambda tx: tx.set_base_model_commit(made.uid, "0123abcd"))
    assert await store.read(shown) == "0123abcd"


class TestAList:
    """Four jobs, oldest first: a QUEUED, b RUNNING, c SUCCEEDED, d QUEUED; a and c of team nlp, c of tier gold too."""

    @pytest.fixture
    async def uids(self, store):
        made = {
            "a": new_job(job(job_id="a"), labels={"team": "nlp"}),
            "b": new_job(job(job_id="b", state=State.RUNNING, attempt=1), labels={"team": "vision"}),
            "c": new_job(
                job(job_id="c", state=State.SUCCEEDED, attempt=2, end_time_us=1), labels={"team": "nlp", "tier": "gold"}
            ),
            "d": new_job(job(job_id="d")),
            "foreign": new_job(job(job_id="a", project="other"), labels={"team": "nlp"}),
        }

        def work(tx):
            tx.insert_jobs(list(made.values()))
            for number in (1, 2):
                tx.insert_attempt(attempt(made["c"].job, number))

        await store.write(work)
        return {name: new.job.uid for name, new in made.items()}

    @pytest.mark.parametrize(
        ("states", "labels", "expected"),
        [
            ([], None, "dcba"),
            ([], {}, "dcba"),
            ([State.QUEUED], None, "da"),
            ([State.QUEUED, State.SUCCEEDED, State.QUEUED], None, "dca"),
            ([State.CANCELLED], None, ""),
            ([], {"team": "nlp"}, "ca"),
            ([], {"team": "nlp", "tier": "gold"}, "c"),
            ([], {"team": "nlp", "tier": "silver"}, ""),
            ([State.QUEUED], {"team": "nlp"}, "a"),
            ([State.RUNNING, State.QUEUED], {"team": "vision"}, "b"),
        ],
    )
    async def test_shows_newest_first_what_was_asked_for(self, store, uids, states, labels, expected):
        chosen = JobFilter("default", states=states, labels=labels)

        found = await store.read(lambda tx: tx.records(chosen, limit=10))

        assert "".join(record.job.job_id for record in found) == expected

    @pytest.mark.parametrize("labels", [None, {"team": "nlp"}])
    async def test_goes_on_below_the_last_page(self, store, uids, labels):
        names, before = "", ""
        while True:
            chosen = JobFilter("default", labels=labels, before_uid=before)
            found = await store.read(lambda tx, chosen=chosen: tx.records(chosen, limit=1))
            if not found:
                break
            before = found[-1].job.uid
            names += found[0].job.job_id

        assert names == ("ca" if labels else "dcba")

    async def test_brings_the_attempts_of_each_job(self, store, uids):
        found = await store.read(lambda tx: tx.records(JobFilter("default"), limit=10))

        assert [[a.number for a in record.attempts] for record in found] == [[], [1, 2], [], []]

    async def test_of_an_empty_project_is_empty(self, store, uids):
        assert await store.read(lambda tx: tx.records(JobFilter("nobody"), limit=10)) == []


async def test_a_requirement_comes_back_to_the_dispatcher(store):
    wanted = Requirement(
        gpus=4, gpu_type="A100", cpus=8, memory_bytes=1 << 40, runner="local", node="n", labels={"zone": "b"}
    )
    new = new_job(requirement=wanted)
    await store.write(lambda tx: tx.insert_jobs([new]))

    (waiting,) = await store.read(lambda tx: tx.waiting_jobs(limit=1))

    assert (waiting.job, waiting.requirement, waiting.priority, waiting.sent) == (new.job, wanted, 50, new.sent)


async def test_old_secrets_are_those_of_jobs_whose_deliveries_have_settled(store):
    from controlplane.domain.delivery import EndpointState, PendingRetry

    ended = {"state": State.SUCCEEDED, "end_time_us": 100}
    plain, live, late, bare, owed, active, retried, settled = (
        job(**fields) for fields in (ended, {}, ended | {"end_time_us": 200}, ended, ended, ended, ended, ended)
    )

    def work(tx):
        tx.insert_jobs(
            [
                new_job(j, sealed_secrets=b"" if j is bare else b"s")
                for j in (plain, live, late, bare, owed, active, retried, settled)
            ]
        )
        tx.insert_endpoints(
            [
                endpoint(active),
                endpoint(settled, kind="status_stream", types=()),
                endpoint(retried, state=EndpointState.SETTLED),
                endpoint(settled, state=EndpointState.SETTLED),
            ]
        )
        tx.save_retry(PendingRetry(retried.uid, "webhook", 1, 1, 5))

    await store.write(work)
    await owe_endpoints(store, [owed.uid])

    assert await store.read(lambda tx: set(tx.old_secrets(ended_before_us=101, limit=10))) == {plain.uid, settled.uid}
    assert await store.read(lambda tx: len(tx.old_secrets(ended_before_us=101, limit=1))) == 1
    await store.write(lambda tx: tx.set_sealed_secrets(plain.uid, b""))
    assert await store.read(lambda tx: tx.old_secrets(ended_before_us=101, limit=10)) == [settled.uid]


async def test_uids_are_ordered_by_their_bytes_in_every_locale(store):
    upper, lower = new_job(job(uid=uid() + "B")), new_job(job(uid=uid()[:-1] + "a"))
    await store.write(lambda tx: tx.insert_jobs([lower, upper]))

    found = await store.read(lambda tx: tx.records(JobFilter("default"), limit=10))

    assert [record.job.uid for record in found] == sorted([upper.job.uid, lower.job.uid], reverse=True)


async def test_a_job_that_leaves_the_queue_loses_its_pending_reason(store):
    made = job()

    def work(tx):
        tx.insert_jobs([new_job(made)])
        tx.append_events([event(made)])
        tx.set_pending({made.uid: "needs 4 x A100"})

    await store.write(work)
    await store.write(lambda tx: tx.save_jobs([replace(made, message="still there")]))
    assert (await store.read(lambda tx: tx.record("default", made.job_id))).pending_reason == "needs 4 x A100"
    await store.write(lambda tx: tx.save_jobs([replace(made, state=State.STARTING, attempt=1)]))
    assert (await store.read(lambda tx: tx.record("default", made.job_id))).pending_reason == ""
