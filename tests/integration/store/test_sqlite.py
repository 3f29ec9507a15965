"""What is SQLite's own: shared commits, where they are made, and what the disk may refuse."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from datetime import timedelta

import pytest

from controlplane.domain.errors import JobNotFound
from controlplane.engine.ports import StoreUnavailable
from controlplane.store import SqliteOptions, open_store
from controlplane.store.group_commit import MAX_SHARED
from tests.support.builders import job, new_job, node


@pytest.fixture
def file(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture(params=["loop", "thread"])
async def store(request, file):
    options = SqliteOptions(commit_on=request.param, busy_timeout=timedelta(milliseconds=20))
    opened = await open_store(f"sqlite:///{file}", sqlite=options)
    yield opened
    await opened.close()


def commits(file):
    """How many transactions the write-ahead log holds: their last frames name the database's size (sqlite.org/fileformat2.html)."""
    wal = file.with_name(file.name + "-wal").read_bytes()
    (page_size,) = struct.unpack_from(">I", wal, 8)
    salt = wal[16:24]
    frames = range(32, len(wal) - 23, 24 + page_size)
    return sum(1 for at in frames if wal[at + 8 : at + 16] == salt and struct.unpack_from(">I", wal, at + 4)[0])


async def test_works_that_are_queued_together_share_one_commit(store, file):
    before = commits(file)

    await asyncio.gather(*(store.write(lambda tx, n=n: tx.save_node(node(f"n{n}"))) for n in range(MAX_SHARED)))

    assert commits(file) == before + 1


async def test_more_than_a_commit_holds_go_on_in_the_next(store, file):
    before = commits(file)

    await asyncio.gather(*(store.write(lambda tx, n=n: tx.save_node(node(f"n{n}"))) for n in range(2 * MAX_SHARED + 1)))

    assert commits(file) == before + 3
    assert len(await store.read(lambda tx: tx.nodes())) == 2 * MAX_SHARED + 1


async def test_works_run_in_the_order_in_which_they_were_asked_for(store):
    order = []
    await asyncio.gather(*(store.write(lambda _tx, n=n: order.append(n)) for n in range(100)))

    assert order == list(range(100))


async def test_a_caller_that_gave_up_before_its_work_began_leaves_nothing(store):
    given_up = asyncio.ensure_future(store.write(lambda tx: tx.set_meta("k", "v")))
    await asyncio.sleep(0)
    given_up.cancel()
    await store.write(lambda _tx: None)

    assert await store.read(lambda tx: tx.meta("k")) == ""


async def test_reads_go_on_while_a_commit_is_on_its_way(file):
    opened = await open_store(f"sqlite:///{file}", sqlite=SqliteOptions(commit_on="thread"))
    await opened.write(lambda tx: tx.set_meta("k", "old"))
    committing = asyncio.ensure_future(opened.write(lambda tx: tx.set_meta("k", "new")))
    await asyncio.sleep(0)

    assert await opened.read(lambda tx: tx.meta("k")) == "old"  # not acknowledged yet
    await committing
    assert await opened.read(lambda tx: tx.meta("k")) == "new"
    await opened.close()


async def test_a_full_disk_refuses_and_the_store_goes_on_when_there_is_room(store):
    writer = store._commits._connection
    pages = writer.exec_driver_sql("PRAGMA page_count").scalar_one()
    writer.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    writer.commit()
    large = [new_job(job(), sent="x" * 2000) for _ in range(50)]

    def failing(_tx):
        raise JobNotFound("x")

    answers = await asyncio.gather(
        store.write(lambda tx: tx.set_meta("k", "v")),
        store.write(lambda tx: tx.insert_jobs(large)),
        store.write(failing),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert "full" in str(answers[1])
    assert await store.read(lambda tx: (tx.meta("k"), tx.jobs([new.job.uid for new in large]))) == ("", {})
    writer.exec_driver_sql("PRAGMA max_page_count = 1000000")
    writer.commit()
    assert len(await store.write(lambda tx: tx.insert_jobs(large))) == 50


async def test_another_programs_lock_refuses_writes_until_it_is_gone(store, file):
    with sqlite3.connect(file, isolation_level=None) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.write(lambda tx: tx.set_meta("k", "v"))
        await store.ping()
        shell.execute("ROLLBACK")
    shell.close()

    await store.write(lambda tx: tx.set_meta("k", "v"))
    assert await store.read(lambda tx: tx.meta("k")) == "v"


async def test_an_error_names_no_value_of_a_row(store):
    await store.write(lambda tx: tx.save_node(node()))
    writer = store._commits._connection
    writer.exec_driver_sql("PRAGMA query_only = ON")
    writer.commit()

    with pytest.raises(StoreUnavailable) as refused:
        await store.write(lambda tx: tx.set_meta("k", "canary"))

    assert "canary" not in str(refused.value)


async def test_a_file_that_is_no_database_is_refused_and_let_go(file):
    file.write_bytes(b"no database at all, " * 100)

    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="not a database"):
            await open_store(f"sqlite:///{file}")


async def test_erased_secrets_are_not_in_the_file(file):
    canary = b"sealed-canary-" * 20
    opened = await open_store(f"sqlite:///{file}")
    made = new_job(sealed_secrets=canary)
    await opened.write(lambda tx: tx.insert_jobs([new_job(), made, new_job()]))
    await opened.close()
    assert b"sealed-canary" in file.read_bytes()

    opened = await open_store(f"sqlite:///{file}")
    await opened.write(lambda tx: tx.set_sealed_secrets(made.job.uid, b""))
    await opened.close()

    assert b"sealed-canary" not in file.read_bytes()


async def test_only_its_owner_can_read_the_database(store, file):
    await store.write(lambda tx: tx.set_meta("k", "v"))

    assert {path.name: oct(path.stat().st_mode & 0o777) for path in file.parent.iterdir()} == dict.fromkeys(
        ("store.db", "store.db-wal", "store.db-shm", "store.db.lock"), "0o600"
    )


async def test_slow_commits_leave_the_loop_and_fast_ones_stay(file):
    opened = await open_store(f"sqlite:///{file}")
    group = opened._commits
    group._commit_seconds = 0.004
    assert [group._in_place() for _ in range(200)].count(True) == 3  # it looks again now and then
    group._commit_seconds = 0.0001
    assert all(group._in_place() for _ in range(200))
    await opened.close()
