"""Taking a crowd's submits in a real child process over a real database, and what happens when it fails."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.domain.errors import InvalidSpec, JobExists, OutputInUse
from controlplane.domain.ids import ulid
from controlplane.domain.spec import Rules
from controlplane.engine.preparing import Asked, Preparer
from controlplane.engine.submissions import Submissions
from controlplane.engine.waits import KnownWaits
from controlplane.loops import running
from controlplane.rpc.created import CreatedAnswer
from controlplane.store import open_store
from controlplane.submitter import CrowdSubmitter
from controlplane.submitter.crowd import CROWD
from controlplane.vault import MasterVault
from tests.support.distribution import installed
from tests.support.eventually import eventually
from tests.support.stack import SEED
from trainplane.v1.job_pb2 import Job

KEY = bytes(range(32))
RULES = Rules(default_output_uri="file:///out/")
MANY = CROWD + 1
_RANDOM = itertools.count(1)


@dataclass
class Here:
    """Submissions over a SQLite file, with a child for crowds."""

    submissions: Submissions
    submitter: CrowdSubmitter
    prepare: Preparer
    store: object
    waits: KnownWaits
    database: Path
    told: list = field(default_factory=list)

    async def take(self, asked, *, crowd=MANY):
        return await self.submitter.take(asked.named(ulid(SystemClock().now_us(), next(_RANDOM))), crowd=crowd)

    async def with_child(self) -> int:
        assert await self.take(asked("first")) is None
        await eventually(lambda: self.submitter.pid)
        return self.submitter.pid

    async def record(self, job_id):
        return await self.store.read(lambda tx: tx.record("default", job_id))

    async def count(self) -> int:
        return len(await self.store.read(lambda tx: tx.unpublished(limit=10_000)))


@asynccontextmanager
async def here(tmp_path, **settings):
    database = tmp_path / "jobs.db"
    url = f"sqlite:///{database}"
    store, vault, waits, told = await open_store(url), MasterVault(KEY), KnownWaits(), []
    prepare = Preparer(rules=RULES, vault=vault, render=CreatedAnswer(vault), now_us=SystemClock().now_us)
    submitter = CrowdSubmitter(waits=waits, announce=told.append, setup=(RULES, KEY, url), **settings)
    submissions = Submissions(
        store, prepare=prepare, crowd=submitter, clock=SystemClock(), waits=waits, announce=told.append
    )
    try:
        async with running({"submitter": submitter.run(), "submissions": submissions.run()}) as died:
            yield Here(submissions, submitter, prepare, store, waits, database, told)
            assert not died.done()
    finally:
        await store.close()


def asked(job_id: str) -> Asked:
    body = SEED.replace(b"unique-train-id", job_id.encode()).replace(b"models/job-id/", f"models/{job_id}/".encode())
    return Asked(body, "default")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_child_takes_what_would_be_taken_here(tmp_path):
    async with here(tmp_path) as it:
        await it.with_child()
        there = await it.take(asked("there"))
        assert it.submitter.entrusted == 1
        own = await it.submissions.submit(asked("own"))
        assert it.submitter.entrusted == 1
        assert there.created
        assert own.created

        one, other = await it.record("there"), await it.record("own")
        for column in ("priority", "labels", "warnings", "base_model_commit", "retry_of", "pending_reason"):
            assert getattr(one, column) == getattr(other, column), column
        assert one.sent.replace("there", "own") == other.sent
        assert one.output_uri.replace("there", "own") == other.output_uri
        sealed = await it.store.read(lambda tx: tx.sealed_secrets(one.job.uid))
        assert MasterVault(KEY).open(sealed.sealed, uid=one.job.uid) == {
            "base_model.auth_token": "hf_xxx",
            "callbacks.auth_header": "Bearer mytoken",
        }
        said, usual = Job.FromString(there.answer), Job.FromString(own.answer)
        assert said.webhook_signing_secret == MasterVault(KEY).signing_secret(one.job.uid)
        for message in (said, usual):
            for changing in ("uid", "job_id", "spec", "output_uri", "create_time", "update_time"):
                message.ClearField(changing)
            message.ClearField("webhook_signing_secret")
            message.ClearField("effective_spec")
        assert said == usual
        [first] = await it.store.read(lambda tx: tx.events_after(one.job.uid, 0, limit=10))
        assert [event for told in it.told for event in told.events if event.uid == one.job.uid] == [first]
        assert [told.queue for told in it.told] == [True, True]


async def test_no_child_is_started_for_a_few(tmp_path):
    async with here(tmp_path) as it:
        for count in range(1, CROWD + 1):
            assert await it.take(asked(f"job-{count}"), crowd=count) is None
        assert not it.submitter._wanted.is_set()


async def test_a_child_refuses_as_is_refused_here(tmp_path):
    wrong = Asked(SEED.replace(b'"rank": 16', b'"rank": 0, "rnak": 1'), "default")
    changed = Asked(asked("taken").spec.replace(b'"rank": 16', b'"rank": 8'), "default")
    beside = Asked(asked("other").spec.replace(b"models/other/", b"models/taken/sub/"), "default")
    async with here(tmp_path) as it:
        await it.with_child()
        await it.take(asked("taken"))
        for refused, error in ((wrong, InvalidSpec), (changed, JobExists), (beside, OutputInUse)):
            said = []
            for submit in (it.take, it.submissions.submit):
                with pytest.raises(error) as caught:
                    await submit(refused)
                said.append(vars(caught.value))
            assert said[0] == said[1]
        assert it.submitter.entrusted == 4
        assert await it.count() == 1


async def test_a_repeat_is_the_job_that_is_there(tmp_path):
    async with here(tmp_path) as it:
        await it.with_child()
        await it.take(asked("same"))
        uid = (await it.record("same")).job.uid
        again = [it.submissions.submit(asked("same")) for _ in range(MANY)]
        for submitted in await asyncio.gather(*again):
            assert not submitted.created
            assert submitted.record.job.uid == uid
        assert it.submitter.entrusted > 1
        assert await it.count() == 1


async def test_many_at_once_are_each_answered_with_their_own(tmp_path):
    async with here(tmp_path) as it:
        await it.with_child()
        answers = await asyncio.gather(*(it.submissions.submit(asked(f"job-{n}")) for n in range(300)))
        assert [Job.FromString(each.answer).job_id for each in answers] == [f"job-{n}" for n in range(300)]
        assert it.submitter.entrusted >= 300 - CROWD
        assert await it.count() == 300
        assert len([event for told in it.told for event in told.events]) == 300


async def test_a_reason_to_wait_that_is_known_is_stored_and_answered(tmp_path):
    async with here(tmp_path) as it:
        await it.take(asked("first"))
        await it.with_child()
        assert (await it.take(asked("unknown"))).why == ""
        it.waits.note(it.prepare(asked("any")).new.requirement, "needs 4 x A100")
        known = await it.take(asked("known"))
        assert known.why == "needs 4 x A100"
        assert (await it.record("known")).pending_reason == "needs 4 x A100"
        assert not it.told[-1].queue
        it.waits.forget()
        assert (await it.take(asked("forgotten"))).why == ""
        assert it.told[-1].queue


async def test_what_a_killed_child_owes_is_taken_here_once_and_another_one_comes(tmp_path):
    async with here(tmp_path) as it:
        pid = await it.with_child()
        os.kill(pid, signal.SIGSTOP)
        owed = [asyncio.ensure_future(it.submissions.submit(asked(f"job-{n}"))) for n in range(40)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*owed)
        assert all(each.created for each in answers)
        assert it.submitter.entrusted == 0
        assert await it.count() == 40
        assert await it.with_child() != pid


@dataclass
class Lost:
    """A child's answers get lost."""

    submitter: CrowdSubmitter

    async def take(self, asked, *, crowd):
        assert (await self.submitter.take(asked, crowd=MANY)).created


async def test_what_a_child_stored_and_could_not_answer_is_found_not_stored_again(tmp_path):
    nameless = Asked(SEED.replace(b'"job_id": "unique-train-id",', b""), "default")
    async with here(tmp_path) as it:
        await it.with_child()
        submissions = Submissions(
            it.store,
            prepare=it.prepare,
            crowd=Lost(it.submitter),
            clock=SystemClock(),
            waits=it.waits,
            announce=it.told.append,
        )
        async with running({"submissions": submissions.run()}):
            found = await submissions.submit(nameless)
        assert not found.created
        assert found.record.job.job_id == f"job-{found.record.job.uid.lower()}"
        assert await it.count() == 1


async def test_a_child_that_does_not_answer_is_killed_and_nobody_waits_for_it_longer(tmp_path):
    async with here(tmp_path, patience=timedelta(milliseconds=200)) as it:
        pid = await it.with_child()
        os.kill(pid, signal.SIGSTOP)
        assert await it.take(asked("late")) is None
        assert is_gone(pid)
        assert it.submitter.entrusted == 0


async def test_a_child_whose_database_is_locked_is_given_up(tmp_path):
    async with here(tmp_path) as it:
        pid = await it.with_child()
        lock = sqlite3.connect(it.database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        taking = asyncio.ensure_future(it.take(asked("locked")))
        await eventually(lambda: is_gone(pid))
        assert await taking is None
        lock.execute("ROLLBACK")
        lock.close()
        assert (await it.submissions.submit(asked("locked"))).created


async def test_a_child_ends_after_a_quiet_time(tmp_path):
    async with here(tmp_path, quiet=timedelta(milliseconds=50)) as it:
        pid = await it.with_child()
        await eventually(lambda: is_gone(pid))
        assert it.submitter.pid == 0


async def test_a_child_ends_with_whoever_started_it_and_shows_nobody_the_key(tmp_path):
    async with here(tmp_path) as it:
        pid = await it.with_child()
        shown = b"".join((Path("/proc") / str(pid) / name).read_bytes() for name in ("cmdline", "environ"))
        assert b"controlplane.submitter" in shown
        for secret in (KEY, base64.b64encode(KEY), b"hf_xxx", b"mytoken"):
            assert secret not in shown
    assert is_gone(pid)


ENGINE = """
class Elsewhere:
    name = "elsewhere"
    description = "Known to the child alone."

    def schema(self):
        return {}

    def validate(self, effective_spec):
        print("judging")  # must not get between the frames
        return [("backend_options.x", "NO", "never")] if effective_spec.get("backend_options") else []

    def command(self, python, attempt_dir):
        return [python]
"""


async def test_a_child_knows_the_engines_of_third_parties(tmp_path, monkeypatch):
    entry_points = "[trainplane.backends]\nelsewhere = elsewhere_engine:Elsewhere\n"
    site = installed(tmp_path, "elsewhere", modules={"elsewhere_engine": ENGINE}, entry_points=entry_points)
    monkeypatch.setenv("PYTHONPATH", str(site))
    spec = json.loads(SEED) | {"backend": "elsewhere"}
    async with here(tmp_path) as it:
        await it.with_child()
        assert (await it.take(Asked(spec, "default"))).created
        assert json.loads((await it.record("unique-train-id")).sent)["backend"] == "elsewhere"
        with pytest.raises(InvalidSpec) as refused:
            await it.take(Asked(spec | {"backend_options": {"x": 1}}, "default"))
        assert [violation.reason for violation in refused.value.violations] == ["NO"]
        with pytest.raises(InvalidSpec, match="1 field"):  # here it is not installed
            await it.submissions.submit(Asked(spec, "default"))
