"""Taking jobs over a real SQLite store: batches, names, and a database that does not answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from controlplane.domain.errors import InvalidSpec, JobExists, TooManyRequests, Unavailable
from controlplane.engine import submissions
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from controlplane.engine.preparing import Asked
from tests.support.clock import in_virtual_time
from tests.support.world import spec, world

SECRET = {"base_model": {"provider": "huggingface", "model_name": "a/b", "auth_token": "hf_canary"}}


async def submit(here, made, **named):
    return await here.submissions.submit(Asked(made, "default", **named))


@in_virtual_time
async def test_repeats_inside_one_batch_are_one_job_and_everyone_hears_of_it(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        answers = await asyncio.gather(*(submit(here, spec("same")) for _ in range(50)))
        assert len({answer.record.job.uid for answer in answers}) == 1
        assert [answer.created for answer in answers].count(True) == 1
        assert await here.types("same") == ["job.queued"]
        assert here.recent.after(answers[0].record.job.uid, 0, limit=10) is not None


@in_virtual_time
async def test_a_batch_of_one_name_and_two_specs_stores_the_first_and_refuses_the_other(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        other = spec("name", priority=7)
        first, second = await asyncio.gather(submit(here, spec("name")), submit(here, other), return_exceptions=True)
        assert first.created
        assert isinstance(second, JobExists)
        assert second.differing == ("priority",)


@in_virtual_time
async def test_a_changed_secret_is_told_by_its_path_and_never_by_its_value(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        await submit(here, spec("s", **SECRET))
        assert not (await submit(here, spec("s", **SECRET))).created
        changed = {"base_model": SECRET["base_model"] | {"auth_token": "hf_other"}}
        with pytest.raises(JobExists) as refused:
            await submit(here, spec("s", **changed))
        assert refused.value.differing == ("base_model.auth_token",)
        assert "hf_" not in str(refused.value)
        with pytest.raises(JobExists) as refused:
            await submit(here, spec("s", base_model={"provider": "huggingface", "model_name": "a/b"}))
        assert refused.value.differing == ("base_model.auth_token",)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"hf_canary" not in file.read_bytes()


@in_virtual_time
async def test_a_job_is_stored_with_whom_it_tells_and_a_repeat_changes_nothing(tmp_path):
    tells = {
        "callbacks": {"webhook_url": "https://hooks.example.com/x", "events": ["job.failed"]},
        "artifacts": {"output_uri": "s3://bucket/out/", "status_stream_url": "https://events.example.com/x"},
    }
    async with world(tmp_path) as here, here.loops("submissions"):
        for _ in range(2):
            uid = (await submit(here, spec("tells", **tells))).record.job.uid
            hook = await here.store.read(lambda tx, uid=uid: tx.endpoint(uid, "webhook"))
            stream = await here.store.read(lambda tx, uid=uid: tx.endpoint(uid, "status_stream"))
            assert (hook.url, hook.types, hook.cursor) == ("https://hooks.example.com/x", ("job.failed",), 0)
            assert (stream.url, stream.types, stream.cursor) == ("https://events.example.com/x", (), 0)
            assert await here.store.read(lambda tx: tx.jobs_without_endpoint(limit=1)) == []
        quiet = (await submit(here, spec("quiet"))).record.job.uid
        assert await here.store.read(lambda tx: tx.endpoint(quiet, "webhook")) is None


@in_virtual_time
async def test_an_idempotency_key_is_the_name_of_a_request_without_one(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        unnamed = spec()
        first = await submit(here, unnamed, idempotency_key="key-1")
        again = await submit(here, unnamed, idempotency_key="key-1")
        named = await submit(here, spec("mine"), idempotency_key="key-2")
        other = await submit(here, spec())
        assert first.record.job.job_id == "key-1"
        assert (again.record.job.uid, again.created) == (first.record.job.uid, False)
        assert named.record.job.job_id == "mine"
        assert other.record.job.uid != first.record.job.uid


@in_virtual_time
async def test_a_caller_that_goes_away_does_not_undo_its_job_nor_hold_up_the_others(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        gone = asyncio.ensure_future(submit(here, spec("gone")))
        stays = asyncio.ensure_future(submit(here, spec("stays")))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).created
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (await here.job("gone")).state == "QUEUED"
        assert not (await submit(here, spec("gone"))).created


@pytest.mark.parametrize("error", [StoreUnavailable("disk full"), OutcomeUnknown("lost")])
def test_a_database_that_does_not_answer_is_unavailable_and_the_next_submit_works(tmp_path, error):
    @in_virtual_time
    async def run():
        async with world(tmp_path) as here, here.loops("submissions") as died:
            here.store.fails = error
            answers = await asyncio.gather(*(submit(here, spec(f"j{n}")) for n in range(3)), return_exceptions=True)
            assert [type(answer) for answer in answers] == [Unavailable] * 3
            assert answers[0].retry_after.total_seconds() > 0
            here.store.fails = None
            assert (await submit(here, spec("j0"))).created
            assert not died.done()

    run()


@in_virtual_time
async def test_after_an_unanswered_commit_a_repeat_finds_the_job(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        here.store.unanswered = OutcomeUnknown("the server went away")
        with pytest.raises(Unavailable):
            await submit(here, spec("maybe"))
        here.store.unanswered = None
        assert not (await submit(here, spec("maybe"))).created
        assert await here.types("maybe") == ["job.queued"]


@in_virtual_time
async def test_a_transaction_that_runs_twice_stores_once(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        here.store.twice = True
        answers = await asyncio.gather(*(submit(here, spec("twice")) for _ in range(3)))
        assert len({answer.record.job.uid for answer in answers}) == 1
        assert await here.types("twice") == ["job.queued"]


@in_virtual_time
async def test_more_submits_than_may_wait_are_refused_at_once_and_the_others_are_taken(tmp_path):
    async with world(tmp_path) as here:
        waiting = [asyncio.ensure_future(submit(here, spec())) for _ in range(submissions.MAX_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests) as refused:
            await submit(here, spec())
        assert refused.value.retry_after.total_seconds() > 0
        async with here.loops("submissions"):
            stored = await asyncio.gather(*waiting)
        assert len({answer.record.job.uid for answer in stored}) == submissions.MAX_WAITING


@in_virtual_time
async def test_a_refused_spec_stores_nothing_and_a_preview_neither(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        with pytest.raises(InvalidSpec):
            await submit(here, {"job_id": "bad"})
        previewed = await here.submissions.preview(Asked(spec("seen"), "default"))
        assert json.loads(previewed.record.sent)["job_id"] == "seen"
        assert await here.store.read(lambda tx: tx.find_job("default", "seen")) is None
        assert await here.store.read(lambda tx: tx.find_job("default", "bad")) is None


@in_virtual_time
async def test_secrets_are_sealed_to_the_job_and_in_no_answer(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        made = await submit(here, spec("s", **SECRET))
        assert "hf_canary" not in repr(made)
        uid = made.record.job.uid
        sealed = await here.store.read(lambda tx: tx.sealed_secrets(uid))
        assert here.vault.open(sealed.sealed, uid=uid) == {"base_model.auth_token": "hf_canary"}
