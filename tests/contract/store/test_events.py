from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from controlplane.domain.event import EventType
from controlplane.domain.job import Progress
from controlplane.engine.ports import Unpublished
from tests.support.builders import event, job, new_job


@pytest.fixture
async def jobs(store):
    """Two jobs with events 1 to 3."""
    made = [job(job_id=name, last_sequence=3) for name in "ab"]

    def work(tx):
        tx.insert_jobs([new_job(j) for j in made])
        tx.append_events([event(j, sequence) for sequence in (1, 2, 3) for j in made])

    await store.write(work)
    return made


async def test_events_come_back_in_order_as_they_were_rendered(store, jobs):
    a, _ = jobs

    assert await store.read(lambda tx: tx.events_after(a.uid, 0, limit=10)) == [event(a, n) for n in (1, 2, 3)]
    assert await store.read(lambda tx: tx.events_after(a.uid, 1, limit=1)) == [event(a, 2)]
    assert await store.read(lambda tx: tx.events_after(a.uid, 3, limit=10)) == []
    assert await store.read(lambda tx: tx.events_after("nobody", 0, limit=10)) == []


async def test_the_stored_bytes_are_the_rendered_ones(store):
    made = job(job_id="a", last_sequence=1)
    told = event(made, 1, EventType.PROGRESS, message='größe "quoted" 🚆 \\', progress=Progress(1, 2, loss=1.5))

    def work(tx):
        tx.insert_jobs([new_job(made)])
        tx.append_events([told])

    await store.write(work)
    assert await store.read(lambda tx: tx.events_after(made.uid, 0, limit=1)) == [told]


async def test_a_number_is_taken_once(store, jobs):
    a, _ = jobs

    with pytest.raises(IntegrityError):
        await store.write(lambda tx: tx.append_events([event(a, 4), event(a, 3)]))

    assert len(await store.read(lambda tx: tx.events_after(a.uid, 0, limit=10))) == 3


async def test_jobs_with_events_that_were_not_published_are_owed(store, jobs):
    a, b = jobs

    assert await store.read(lambda tx: tx.unpublished(limit=10)) == [Unpublished(a.uid, 0, 3), Unpublished(b.uid, 0, 3)]
    assert await store.read(lambda tx: tx.unpublished(limit=1)) == [Unpublished(a.uid, 0, 3)]


async def test_marking_moves_forward_only(store, jobs):
    a, b = jobs
    await store.write(lambda tx: tx.mark_published({a.uid: 3, b.uid: 2}))
    await store.write(lambda tx: tx.mark_published({a.uid: 1, b.uid: 1}))
    await store.write(lambda tx: tx.mark_published({}))

    assert await store.read(lambda tx: tx.unpublished(limit=10)) == [Unpublished(b.uid, 2, 3)]


async def test_saving_a_job_keeps_what_was_published(store, jobs):
    a, b = jobs
    await store.write(lambda tx: tx.mark_published({a.uid: 3, b.uid: 3}))

    await store.write(lambda tx: tx.save_jobs([replace(a, last_sequence=5)]))

    assert await store.read(lambda tx: tx.unpublished(limit=10)) == [Unpublished(a.uid, 3, 5)]


async def test_after_a_wiped_stream_the_jobs_updated_since_are_owed_again(store, jobs):
    a, b = jobs
    await store.write(lambda tx: tx.save_jobs([replace(a, update_time_us=100), replace(b, update_time_us=99)]))
    await store.write(lambda tx: tx.mark_published({a.uid: 3, b.uid: 3}))

    assert await store.write(lambda tx: tx.unpublish_since(100)) == 1
    assert await store.read(lambda tx: tx.unpublished(limit=10)) == [Unpublished(a.uid, 0, 3)]
