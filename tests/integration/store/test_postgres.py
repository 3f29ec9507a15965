"""What is PostgreSQL's own: a server that goes away, conflicts, snapshots."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest
from sqlalchemy.util import await_only

from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from controlplane.store import PostgresOptions, StoreHeld, open_store
from tests.support.builders import job, new_job
from tests.support.eventually import eventually


@pytest.fixture
def url(server):
    return server.url(server.create())


@pytest.fixture
async def store(url):
    opened = await open_store(url)
    yield opened
    await opened.close()


async def execute(url, statement):
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT])
async def test_a_server_that_is_killed_and_restarted_is_used_again(store, server, url, how):
    await store.write(lambda tx: tx.set_meta("k", "before"))
    server.stop(how)

    for work in (
        lambda: store.write(lambda tx: tx.set_meta("k", "lost")),
        lambda: store.read(lambda tx: tx.meta("k")),
        store.ping,
    ):
        with pytest.raises(StoreUnavailable):
            await work()
    server.start()

    assert await store.read(lambda tx: tx.meta("k")) == "before"
    await store.write(lambda tx: tx.set_meta("k", "after"))
    assert await store.read(lambda tx: tx.meta("k")) == "after"
    with pytest.raises(StoreHeld):  # the lock was taken again
        await open_store(url)


async def test_a_lock_that_another_took_meanwhile_refuses_writes(store, server, url):
    server.stop()
    server.start()
    thief = await open_store(url)

    with pytest.raises(StoreUnavailable, match="in use by trainplane-controlplane pid"):
        await store.write(lambda tx: tx.set_meta("k", "v"))
    await thief.close()
    await store.write(lambda tx: tx.set_meta("k", "v"))


async def test_a_server_that_is_not_there_is_unavailable(server, url):
    server.stop()

    with pytest.raises(StoreUnavailable):
        await open_store(url)


async def test_a_commit_whose_connection_dies_is_unknown(store, url):
    await execute(
        url,
        """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
           CREATE CONSTRAINT TRIGGER die_at_commit AFTER INSERT ON installation
               DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()""",
    )

    with pytest.raises(OutcomeUnknown):
        await store.write(lambda tx: tx.set_meta("k", "v"))

    assert await store.read(lambda tx: tx.meta("k")) == ""


async def test_works_that_lock_each_other_out_are_run_again(store):
    made = [job(), job()]
    await store.write(lambda tx: tx.insert_jobs([new_job(each) for each in made]))
    both_hold_one = asyncio.Barrier(2)
    runs = []

    def locking(first, second):
        def work(tx):
            runs.append(first.uid)
            tx.job(first.uid)
            if len(runs) <= 2:
                await_only(both_hold_one.wait())
            tx.job(second.uid)

        return work

    a, b = made
    await asyncio.gather(store.write(locking(a, b)), store.write(locking(b, a)))

    assert len(runs) == 3


async def test_conflicts_without_end_are_given_up(url):
    opened = await open_store(url, postgres=PostgresOptions(tries=2))
    await execute(
        url,
        "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END$$; "
        "CREATE TRIGGER conflicts BEFORE INSERT ON installation FOR EACH ROW EXECUTE FUNCTION conflict()",
    )
    runs = []

    with pytest.raises(StoreUnavailable, match="contended"):
        await opened.write(lambda tx: (runs.append(1), tx.set_meta("k", "v")))

    assert len(runs) == 2
    await opened.close()


async def test_a_read_is_one_snapshot(store):
    await store.write(lambda tx: tx.set_meta("k", "old"))

    def work(tx):
        before = tx.meta("k")
        await_only(store.write(lambda other: other.set_meta("k", "new")))
        return before, tx.meta("k")

    assert await store.read(work) == ("old", "old")
    assert await store.read(lambda tx: tx.meta("k")) == "new"


async def test_closing_waits_for_what_runs(url):
    opened = await open_store(url)
    goes_on = asyncio.Event()
    running = asyncio.ensure_future(opened.write(lambda tx: (tx.set_meta("k", "v"), await_only(goes_on.wait()))))
    await eventually(lambda: opened._running)

    closing = asyncio.ensure_future(opened.close())
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.gather(running, closing)

    again = await open_store(url)
    assert await again.read(lambda tx: tx.meta("k")) == "v"
    await again.close()
