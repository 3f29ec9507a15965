from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from controlplane.domain.attempt import AttemptNode, AttemptState
from controlplane.domain.node import AttemptRef
from tests.support.builders import attempt, job, new_job


@pytest.fixture
async def made(store):
    """A job with attempt 1 on gpu-01 (devices 0, 1) and attempt 2 on gpu-02 (no devices)."""
    owner = job(job_id="a")
    first = attempt(owner, 1, devices=(0, 1), cpus=8, memory_bytes=1 << 40)
    second = attempt(owner, 2, node="gpu-02")

    def work(tx):
        tx.insert_jobs([new_job(owner)])
        tx.insert_attempt(first)
        tx.insert_attempt(second)

    await store.write(work)
    return first, second


def ref(of):
    return AttemptRef(of.job_uid, of.number)


async def test_an_attempt_comes_back_as_it_was_stored(store, made):
    first, second = made

    assert await store.read(lambda tx: tx.attempt(first.job_uid, 1)) == first
    refs = [ref(second), ref(first), AttemptRef("x", 1)]
    assert await store.read(lambda tx: tx.attempts_on("gpu-01", refs)) == {ref(first): first}
    assert await store.read(lambda tx: (tx.attempt(first.job_uid, 3), tx.attempts_on("gpu-01", []))) == (None, {})
    assert (await store.read(lambda tx: tx.record("default", "a"))).attempts == made


async def test_saving_writes_all_but_names_and_devices(store, made):
    first, _ = made
    saved = replace(
        first,
        state=AttemptState.CLAIMED,
        claim_time_us=2,
        start_time_us=3,
        end_time_us=4,
        reason="R",
        manifest_digest="sha256:1",
    )

    await store.write(lambda tx: tx.save_attempt(saved))

    assert await store.read(lambda tx: tx.attempt(first.job_uid, 1)) == saved


@pytest.mark.parametrize(
    ("state", "charged"),
    [
        (AttemptState.ASSIGNED, True),
        (AttemptState.CLAIMED, True),
        (AttemptState.LOST, True),
        (AttemptState.ENDED, False),
    ],
)
async def test_devices_count_as_taken_until_the_attempt_ended(store, made, state, charged):
    first, second = made
    saved = replace(first, state=state)
    await store.write(lambda tx: tx.save_attempt(saved))

    assert await store.read(lambda tx: tx.charged_on("gpu-01")) == ([saved] if charged else [])
    assert await store.read(lambda tx: tx.charged_attempts()) == ([saved, second] if charged else [second])


async def test_a_device_is_promised_once_until_it_is_free(store, made):
    first, _ = made
    other = job(job_id="b")
    rival = attempt(other, 1, devices=(1, 2))
    await store.write(lambda tx: tx.insert_jobs([new_job(other)]))

    with pytest.raises(IntegrityError):
        await store.write(lambda tx: tx.insert_attempt(rival))
    await store.write(lambda tx: tx.save_attempt(replace(first, state=AttemptState.LOST)))
    with pytest.raises(IntegrityError):
        await store.write(lambda tx: tx.insert_attempt(rival))
    await store.write(lambda tx: tx.insert_attempt(replace(rival, node="gpu-02")))  # the same numbers elsewhere
    await store.write(lambda tx: tx.save_attempt(replace(first, state=AttemptState.ENDED)))
    await store.write(lambda tx: tx.insert_attempt(replace(rival, number=2)))

    assert [a.job_uid for a in await store.read(lambda tx: tx.charged_on("gpu-01"))] == [other.uid]


async def test_a_nonce_and_a_watermark_are_kept_per_node(store, made):
    first, second = made
    await store.write(lambda tx: tx.set_nonce(first.job_uid, 1, node="gpu-01", nonce=b"\x00\x01"))

    nodes = await store.read(lambda tx: tx.attempt_nodes([ref(first), ref(second)], "gpu-01"))

    assert nodes == {ref(first): AttemptNode(first.job_uid, 1, "gpu-01", b"\x00\x01", 0)}
    assert await store.read(lambda tx: tx.attempt_nodes([], "gpu-01")) == {}


async def test_a_watermark_moves_only_from_where_it_was_read(store, made):
    first, _ = made

    def advance(applied, to, node="gpu-01"):
        return store.write(lambda tx: tx.advance_watermark(first.job_uid, 1, node=node, applied=applied, to=to))

    assert await advance(0, 500) is True
    assert await advance(0, 700) is False
    assert await advance(500, 600) is True
    assert await advance(600, 700, node="gpu-02") is False
    nodes = await store.read(lambda tx: tx.attempt_nodes([ref(first)], "gpu-01"))
    assert nodes[ref(first)].applied == 600


@pytest.fixture
async def gang(store):
    """A job's attempt on gpu-01 to gpu-03, two devices each."""
    owner = job(job_id="g")
    first = attempt(owner, 1, devices=(0, 1), others=("gpu-02", "gpu-03"))
    members = [attempt(owner, 1, node=f"gpu-0{index + 1}", devices=(2, 3), index=index) for index in (1, 2)]

    def work(tx):
        tx.insert_jobs([new_job(owner)])
        for each in (first, *members):
            tx.insert_attempt(each)

    await store.write(work)
    return first, *members


async def test_a_gang_is_one_attempt_with_a_part_for_each_node(store, gang):
    first, second, third = gang

    assert await store.read(lambda tx: tx.parts(first.job_uid, 1)) == [first, second, third]
    assert await store.read(lambda tx: tx.attempt(first.job_uid, 1)) == first
    for part in gang:
        found = await store.read(lambda tx, part=part: tx.attempts_on(part.node, [ref(first)]))
        assert found == {ref(first): part}
        assert await store.read(lambda tx, part=part: tx.charged_on(part.node)) == [part]
    assert await store.read(lambda tx: tx.charged_attempts()) == [first, second, third]
    assert (await store.read(lambda tx: tx.record("default", "g"))).attempts == (first,)


async def test_each_node_of_a_gang_is_charged_until_it_has_ended_there(store, gang):
    first, second, third = gang
    other = job(job_id="b")
    await store.write(lambda tx: tx.insert_jobs([new_job(other)]))
    ended = replace(second, state=AttemptState.ENDED, end_time_us=5, reason="CANCELLED")

    await store.write(lambda tx: tx.save_attempt(ended))

    assert await store.read(lambda tx: tx.parts(first.job_uid, 1)) == [first, ended, third]
    assert await store.read(lambda tx: tx.charged_attempts()) == [first, third]
    await store.write(lambda tx: tx.insert_attempt(attempt(other, 1, node="gpu-02", devices=(2, 3))))
    for taken in ("gpu-01", "gpu-03"):
        rival = attempt(other, 2, node=taken, devices=(0, 1, 2, 3))
        with pytest.raises(IntegrityError):
            await store.write(lambda tx, rival=rival: tx.insert_attempt(rival))


async def test_a_gang_is_incomplete_until_it_is_claimed_and_says_who_has_asked(store, gang):
    first = gang[0]
    late, early = first.assign_time_us + 1, first.assign_time_us

    assert await store.read(lambda tx: tx.incomplete_gangs(before_us=early)) == []
    assert await store.read(lambda tx: tx.incomplete_gangs(before_us=late)) == [first]
    assert await store.read(lambda tx: tx.claimants(first.job_uid, 1)) == frozenset()
    await store.write(lambda tx: tx.set_nonce(first.job_uid, 1, node="gpu-02", nonce=b"n"))
    assert await store.read(lambda tx: tx.claimants(first.job_uid, 1)) == {"gpu-02"}
    claimed = replace(first, state=AttemptState.CLAIMED, meeting="10.0.0.1:4000")
    await store.write(lambda tx: tx.save_attempt(claimed))
    assert await store.read(lambda tx: tx.incomplete_gangs(before_us=late)) == []
    assert (await store.read(lambda tx: tx.parts(first.job_uid, 1)))[0] == claimed


async def test_a_gang_names_a_node_once(store, gang):
    second = gang[1]
    with pytest.raises(IntegrityError):
        await store.write(lambda tx: tx.insert_attempt(replace(second, index=3, devices=())))
    with pytest.raises(IntegrityError):
        await store.write(lambda tx: tx.insert_attempt(replace(second, node="gpu-09", devices=())))
