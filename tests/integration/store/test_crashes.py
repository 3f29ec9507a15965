"""What was acknowledged is there, whatever ends the process."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.store import SqliteOptions, StoreHeld, open_store
from tests.support.builders import event, job, new_job

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def acknowledging(url):
    """The child, which has the database open."""
    argv = [sys.executable, str(Path(__file__).with_name("acknowledging.py")), url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}) as child:
        try:
            assert child.stdout.readline() == "open\n"
            yield child
        finally:
            child.kill()


def killed_after(child, count):
    """Every uid that the child said, of which there are at least `count`."""
    said = [child.stdout.readline().strip() for _ in range(count)]
    child.kill()
    rest = child.stdout.read()
    return said + rest.splitlines()[: rest.count("\n")]


async def there(url, uids):
    """How many of the jobs are there, each with its event."""
    store = await open_store(url)
    found = await store.read(lambda tx: tx.jobs(uids))
    told = await store.read(lambda tx: [uid for uid in uids if len(tx.events_after(uid, 0, limit=2)) == 1])
    await store.close()
    return sorted(found), told


@pytest.mark.parametrize("count", [1, 37, 200])
async def test_sqlite_has_every_acknowledged_job_after_a_sigkill(tmp_path, count):
    url = f"sqlite:///{tmp_path}/store.db"
    with acknowledging(url) as child:
        acknowledged = killed_after(child, count)

    assert len(acknowledged) >= count
    assert await there(url, acknowledged) == (sorted(acknowledged), acknowledged)


async def test_postgresql_has_every_acknowledged_job_after_its_own_and_our_sigkill(server):
    import signal

    url = server.url(server_database(server))
    with acknowledging(url) as child:
        said = [child.stdout.readline().strip() for _ in range(60)]
        server.stop(signal.SIGKILL)
        acknowledged = said + killed_after(child, 0)
    server.start()

    assert await there(url, acknowledged) == (sorted(acknowledged), acknowledged)


async def test_a_copy_made_the_instant_a_write_is_acknowledged_has_it(tmp_path):
    for commit_on in ("loop", "thread"):
        directory = tmp_path / commit_on
        store = await open_store(f"sqlite:///{directory}/store.db", sqlite=SqliteOptions(commit_on=commit_on))
        for number in range(20):
            made = job()

            def work(tx, made=made):
                tx.insert_jobs([new_job(made)])
                tx.append_events([event(made)])

            await store.write(work)
            copy = tmp_path / f"{commit_on}-{number}"
            copy.mkdir()
            for suffix in ("", "-wal"):
                shutil.copy(f"{directory}/store.db{suffix}", copy)
            assert await there(f"sqlite:///{copy}/store.db", [made.uid]) == ([made.uid], [made.uid])
        await store.close()


async def test_a_second_process_is_refused_by_the_pid_of_the_first_until_that_is_dead(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    with acknowledging(url) as child:
        with pytest.raises(StoreHeld, match=rf"process {child.pid} "):
            await open_store(url)
        killed_after(child, 1)

    await (await open_store(url)).close()


def server_database(server):
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(1) as thread:  # `create` runs a loop of its own
        return thread.submit(server.create).result()
