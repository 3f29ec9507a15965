from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from controlplane.domain.errors import JobNotFound
from controlplane.engine.ports import StoreUnavailable
from controlplane.store import StoreHeld, open_store
from tests.support.builders import event, job, new_job, node


async def test_what_a_work_answers_comes_back(store):
    assert await store.write(lambda _tx: 42) == 42
    assert await store.read(lambda _tx: "x") == "x"


async def test_what_a_work_raises_comes_back_and_nothing_of_it_is_stored(store):
    def work(tx):
        tx.insert_jobs([new_job(job(job_id="a"))])
        raise JobNotFound("a")

    with pytest.raises(JobNotFound):
        await store.write(work)

    assert await store.read(lambda tx: tx.find_job("default", "a")) is None
    await store.write(lambda tx: tx.insert_jobs([new_job(job(job_id="a"))]))


async def test_a_work_sees_what_it_wrote(store):
    made = job()

    def work(tx):
        tx.insert_jobs([new_job(made)])
        tx.append_events([event(made)])
        return tx.job(made.uid), len(tx.events_after(made.uid, 0, limit=5))

    assert await store.write(work) == (made, 1)


async def test_of_works_that_run_together_one_that_fails_undoes_only_itself(store):
    def storing(name):
        return store.write(lambda tx: tx.save_node(node(name)))

    def failing(name):
        def work(tx):
            tx.save_node(node(name))
            raise JobNotFound(name)

        return store.write(work)

    answers = await asyncio.gather(storing("a"), failing("b"), storing("c"), failing("d"), return_exceptions=True)

    assert [type(answer) for answer in answers] == [type(None), JobNotFound, type(None), JobNotFound]
    assert [each.name for each in await store.read(lambda tx: tx.nodes())] == ["a", "c"]


async def test_works_that_all_fail_store_nothing(store):
    def work(tx):
        tx.save_node(node())
        raise JobNotFound("x")

    answers = await asyncio.gather(store.write(work), store.write(work), return_exceptions=True)

    assert [type(answer) for answer in answers] == [JobNotFound, JobNotFound]
    assert await store.read(lambda tx: tx.nodes()) == []


async def test_writers_of_one_job_wait_for_each_other(store):
    made = job(last_sequence=0)
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))

    def next_event(tx):
        current = tx.job(made.uid)
        moved = replace(current, last_sequence=current.last_sequence + 1)
        tx.append_events([event(made, moved.last_sequence)])
        tx.save_jobs([moved])
        return moved.last_sequence

    numbers = await asyncio.gather(*(store.write(next_event) for _ in range(30)))

    assert sorted(numbers) == list(range(1, 31))
    assert len(await store.read(lambda tx: tx.events_after(made.uid, 0, limit=99))) == 30


async def test_of_submits_that_race_for_a_name_one_is_stored(store):
    rivals = [new_job(job(job_id="same")) for _ in range(10)]

    stored = await asyncio.gather(*(store.write(lambda tx, new=new: tx.insert_jobs([new])) for new in rivals))

    (winner,) = frozenset().union(*stored)
    assert (await store.read(lambda tx: tx.find_job("default", "same"))).uid == winner


async def test_batches_that_share_names_in_opposite_orders_do_not_lock_each_other_out(store):
    names = [f"job-{number}" for number in range(40)]
    batches = [[new_job(job(job_id=name)) for name in order] for order in (names, names[::-1])]

    stored = await asyncio.gather(*(store.write(lambda tx, batch=batch: tx.insert_jobs(batch)) for batch in batches))

    assert sorted(map(len, stored)) == [0, 40]


async def test_a_read_sees_every_acknowledged_write(store):
    for number in range(30):
        await store.write(lambda tx, number=number: tx.set_meta("n", str(number)))
        assert await store.read(lambda tx: tx.meta("n")) == str(number)


async def test_a_read_cannot_write(store):
    with pytest.raises(Exception, match=r"read-?only"):
        await store.read(lambda tx: tx.set_meta("k", "v"))

    assert await store.read(lambda tx: tx.meta("k")) == ""


async def test_locks_may_be_asked_for_in_a_read(store):
    made = job()
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))

    assert await store.read(lambda tx: (tx.job(made.uid), tx.node("x"))) == (made, None)


async def test_a_database_that_is_held_is_refused_naming_the_holder(store, url):
    with pytest.raises(StoreHeld, match=rf"\b{os.getpid()}\b"):
        await open_store(url)

    await store.ping()


async def test_a_closed_database_can_be_opened_again_and_has_everything(url):
    first = await open_store(url)
    await first.write(lambda tx: tx.set_meta("k", "v"))
    await first.close()

    with pytest.raises(StoreUnavailable):
        await first.write(lambda tx: tx.set_meta("k", "late"))
    second = await open_store(url)
    assert await second.read(lambda tx: tx.meta("k")) == "v"
    await second.close()


async def test_closing_answers_what_was_queued(url):
    opened = await open_store(url)
    queued = asyncio.ensure_future(opened.write(lambda tx: tx.set_meta("k", "v")))
    await asyncio.sleep(0)
    await asyncio.gather(queued, opened.close())

    again = await open_store(url)
    assert await again.read(lambda tx: tx.meta("k")) == "v"
    await again.close()


async def test_a_url_of_another_database_is_refused():
    with pytest.raises(ValueError, match="sqlite:///path or postgresql://"):
        await open_store("mysql://host/db")
    with pytest.raises(ValueError, match="sqlite:///path or postgresql://"):
        await open_store("sqlite://")
