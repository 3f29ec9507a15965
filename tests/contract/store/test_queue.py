from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.domain.job import State
from tests.support.builders import job, new_job


@pytest.fixture
async def queue(store):
    """Two jobs of priority 50, one of 90, one of 10; and one of 100 that runs."""
    made = {
        name: new_job(job(job_id=name), priority=priority)
        for name, priority in (("older", 50), ("urgent", 90), ("newer", 50), ("patient", 10))
    }
    running = new_job(job(job_id="running", state=State.RUNNING, attempt=1), priority=100)
    await store.write(lambda tx: tx.insert_jobs([*made.values(), running]))
    return {name: new.job for name, new in made.items()}


async def test_waiting_jobs_come_by_priority_and_then_by_age(store, queue):
    waiting = await store.read(lambda tx: tx.waiting_jobs(limit=10))

    assert [w.job.job_id for w in waiting] == ["urgent", "older", "newer", "patient"]
    assert [w.priority for w in waiting] == [90, 50, 50, 10]


async def test_waiting_jobs_go_on_after_the_last_of_a_page(store, queue):
    names, after = [], None
    while page := await store.read(lambda tx, after=after: tx.waiting_jobs(limit=1, after=after)):
        names.append(page[0].job.job_id)
        after = (page[0].priority, page[0].job.uid)

    assert names == ["urgent", "older", "newer", "patient"]


async def test_a_place_in_the_queue_counts_the_jobs_before(store, queue):
    def places(tx):
        return {w.job.job_id: tx.queue_position(w.job.uid, priority=w.priority) for w in tx.waiting_jobs(limit=10)}

    assert await store.read(places) == {"urgent": 1, "older": 2, "newer": 3, "patient": 4}


async def test_a_job_with_a_pending_reason_has_been_seen(store, queue):
    await store.write(lambda tx: tx.set_pending({queue["urgent"].uid: "needs 4 x A100", queue["newer"].uid: "queued"}))

    unseen = await store.read(lambda tx: tx.unseen_jobs(limit=10))
    assert [w.job.job_id for w in unseen] == ["older", "patient"]
    waiting = await store.read(lambda tx: tx.waiting_jobs(limit=10))
    assert [w.pending_reason for w in waiting] == ["needs 4 x A100", "", "queued", ""]


async def test_a_job_that_left_the_queue_gets_no_pending_reason(store, queue):
    gone = replace(queue["older"], state=State.STARTING, attempt=1)
    await store.write(lambda tx: tx.save_jobs([gone]))

    await store.write(lambda tx: tx.set_pending({gone.uid: "too late"}))

    assert (await store.read(lambda tx: tx.record("default", "older"))).pending_reason == ""
    assert len(await store.read(lambda tx: tx.waiting_jobs(limit=10))) == 3
