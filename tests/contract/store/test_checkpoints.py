from __future__ import annotations

from dataclasses import replace

from controlplane.domain.checkpoint import Checkpoint
from tests.support.builders import job, new_job


async def _kept(store, made, *saved, limit=10):
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))
    for checkpoint, oldest_step in saved:
        await store.write(lambda tx, c=checkpoint, o=oldest_step: tx.save_checkpoint(c, oldest_step=o))
    return await store.read(lambda tx: tx.checkpoints(made.uid, limit=limit))


def _checkpoint(made, attempt, step, **fields):
    return replace(
        Checkpoint(made.uid, attempt, step, "gpu-01", 1 << 40, f"{step:064x}", 1_800_000_000_000_000), **fields
    )


async def test_they_come_by_attempt_and_step_the_newest_first_and_no_more_than_asked_for(store):
    made = job()
    one, two, three = _checkpoint(made, 1, 20), _checkpoint(made, 1, 30), _checkpoint(made, 2, 10, node="gpu-02")
    assert await _kept(store, made, (two, 0), (one, 0), (three, 0)) == [three, two, one]
    assert await store.read(lambda tx: tx.checkpoints(made.uid, limit=2)) == [three, two]


async def test_one_that_is_saved_again_is_as_it_was_saved_last(store):
    made = job()
    first = _checkpoint(made, 1, 20)
    again = replace(first, node="gpu-02", size_bytes=3, manifest_digest="ff", create_time_us=5)
    assert await _kept(store, made, (first, 20), (again, 20)) == [again]


async def test_those_of_earlier_steps_than_the_oldest_that_is_kept_are_forgotten_of_this_job_alone(store):
    made, other = job(), job(job_id="other")
    beside = _checkpoint(other, 1, 1)
    assert await _kept(store, other, (beside, 1)) == [beside]
    saved = [(_checkpoint(made, 1, step), max(step - 10, 10)) for step in (10, 20, 30)]
    gone_on = _checkpoint(made, 2, 40)
    found = await _kept(store, made, *saved, (gone_on, 30))
    assert [(each.attempt, each.step) for each in found] == [(2, 40), (1, 30)]
    assert await store.read(lambda tx: tx.checkpoints(other.uid, limit=10)) == [beside]
