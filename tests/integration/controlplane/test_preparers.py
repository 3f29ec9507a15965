"""Preparing a crowd's submits in a real child process, and what happens when it fails."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import Rules
from controlplane.engine.preparing import Asked, Preparer
from controlplane.loops import running
from controlplane.preparers import CrowdPreparer
from controlplane.preparers.crowd import CROWD, FEW, STARTING
from controlplane.rpc.created import CreatedAnswer
from controlplane.vault import MasterVault
from tests.support.distribution import installed
from tests.support.eventually import eventually
from tests.support.freezing import freeze
from tests.support.stack import SEED
from trainplane.v1.job_pb2 import Job

KEY = bytes(range(32))
RULES = Rules(default_output_uri="file:///out/")
MANY = CROWD + 1


def in_place() -> Preparer:
    vault = MasterVault(KEY)
    return Preparer(rules=RULES, vault=vault, render=CreatedAnswer(vault), now_us=lambda: 1_700_000_000_000_000)


@asynccontextmanager
async def crowd(**settings):
    made = CrowdPreparer(in_place(), setup=(RULES, KEY), **settings)
    async with running({"preparing": made.run()}) as died:
        yield made
        assert not died.done()


async def with_child(preparer: CrowdPreparer) -> int:
    await preparer.prepare(asked("first"), crowd=MANY)
    # Longer than one has for its start: the next is wanted, too.
    await eventually(lambda: preparer.pid, deadline_seconds=3 * STARTING.total_seconds())
    return preparer.pid


def asked(job_id: str) -> Asked:
    return Asked(SEED.replace(b"unique-train-id", job_id.encode()), "default")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_child_prepares_what_would_be_prepared_in_place():
    async with crowd() as preparer:
        await with_child(preparer)
        there = await preparer.prepare(asked("same"), crowd=MANY)
        assert preparer.entrusted == 1
        here = await preparer.prepare(asked("same"), crowd=FEW)
        assert preparer.entrusted == 1

        vault = MasterVault(KEY)
        for field in (
            "priority",
            "sent",
            "requirement",
            "labels",
            "warnings",
            "secret_macs",
            "webhook",
            "output_uri",
            "output_place",
        ):
            assert getattr(there.new, field) == getattr(here.new, field), field
        assert there.new.endpoints == tuple(replace(e, job_uid=there.new.job.uid) for e in here.new.endpoints)
        assert [e.kind for e in there.new.endpoints] == ["webhook", "status_stream"]
        assert vault.open(there.new.sealed_secrets, uid=there.new.job.uid) == {
            "base_model.auth_token": "hf_xxx",
            "callbacks.auth_header": "Bearer mytoken",
        }
        said, usual = Job.FromString(there.answer), Job.FromString(here.answer)
        assert said.webhook_signing_secret == vault.signing_secret(there.new.job.uid)
        for message in (said, usual):
            for changing in ("uid", "create_time", "update_time", "webhook_signing_secret"):
                message.ClearField(changing)
        assert said == usual
        event = json.loads(there.first.json)
        assert (event["type"], event["id"]) == ("job.queued", f"{there.new.job.uid}.1")


async def test_no_child_is_started_for_a_few():
    async with crowd() as preparer:
        for count in range(1, CROWD + 1):
            await preparer.prepare(asked(f"job-{count}"), crowd=count)
        assert not preparer._wanted.is_set()


async def test_a_child_refuses_with_the_same_violations():
    wrong = Asked(SEED.replace(b'"rank": 16', b'"rank": 0, "rnak": 1'), "default")
    async with crowd() as preparer:
        await with_child(preparer)
        found = []
        for many in (MANY, 1):
            with pytest.raises(InvalidSpec) as refused:
                await preparer.prepare(wrong, crowd=many)
            found.append(refused.value.violations)
        assert preparer.entrusted == 1
        assert found[0] == found[1]
        assert {each.field for each in found[0]} == {"customization.rank", "customization.rnak"}


def test_one_that_is_wrong_leaves_those_beside_it_as_they_are():
    wrong = Asked(SEED.replace(b'"rank": 16', b'"rank": 0'), "default")
    first, unreadable, second, refused, third = in_place().several(
        [asked("first"), Asked(b"{", "default"), asked("second"), wrong, asked("third")]
    )
    assert isinstance(unreadable, InvalidSpec)
    assert isinstance(refused, InvalidSpec)
    assert [violation.field for violation in refused.violations] == ["customization.rank"]
    for prepared, job_id in ((first, "first"), (second, "second"), (third, "third")):
        assert not isinstance(prepared, InvalidSpec)
        assert (prepared.new.job.job_id, prepared.first.job_id) == (job_id, job_id)
        assert Job.FromString(prepared.answer).job_id == job_id
        assert prepared.first.uid == prepared.new.job.uid == Job.FromString(prepared.answer).uid


async def test_many_at_once_are_each_answered_with_their_own():
    async with crowd() as preparer:
        await with_child(preparer)
        answers = await asyncio.gather(*(preparer.prepare(asked(f"job-{n}"), crowd=MANY) for n in range(300)))
        assert [each.new.job.job_id for each in answers] == [f"job-{n}" for n in range(300)]
        assert len({each.new.job.uid for each in answers}) == 300
        assert preparer.entrusted == 300


async def test_what_a_killed_child_owes_is_prepared_in_place_and_another_one_comes():
    async with crowd() as preparer:
        pid = await with_child(preparer)
        freeze(pid)
        owed = [asyncio.ensure_future(preparer.prepare(asked(f"job-{n}"), crowd=MANY)) for n in range(40)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*owed)
        assert [each.new.job.job_id for each in answers] == [f"job-{n}" for n in range(40)]
        assert preparer.entrusted == 0
        assert await with_child(preparer) != pid


async def test_a_child_that_does_not_answer_is_killed_and_nobody_waits_for_it_longer():
    async with crowd(patience=timedelta(milliseconds=200), quiet=timedelta(hours=1)) as preparer:
        pid = await with_child(preparer)
        freeze(pid)
        assert (await preparer.prepare(asked("late"), crowd=MANY)).new.job.job_id == "late"
        assert preparer.entrusted == 0
        await eventually(lambda: is_gone(pid))


@pytest.mark.parametrize("broken", ["stdin", "stdout"])
def test_the_loop_goes_on_when_a_childs_pipe_cannot_be_connected(tmp_path, broken):
    """In the loop that serves: uvloop."""
    os.mkfifo(tmp_path / "pipe")
    unusable = os.open(tmp_path / "pipe", os.O_PATH)  # a pipe that refuses to be made non-blocking
    child = subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    os.dup2(unusable, getattr(child, broken).fileno())
    os.close(unusable)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(CrowdPreparer(in_place(), setup=(RULES, KEY))._serve(child))
        assert child.returncode == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


async def test_a_child_ends_after_a_quiet_time():
    async with crowd(quiet=timedelta(milliseconds=50)) as preparer:
        pid = await with_child(preparer)
        await eventually(lambda: is_gone(pid))
        assert preparer.pid == 0


async def test_a_child_ends_with_whoever_started_it_and_shows_nobody_the_key():
    async with crowd() as preparer:
        pid = await with_child(preparer)
        shown = b"".join((Path("/proc") / str(pid) / name).read_bytes() for name in ("cmdline", "environ"))
        assert b"controlplane.preparers" in shown
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
    async with crowd() as preparer:
        await with_child(preparer)
        prepared = await preparer.prepare(Asked(spec, "default"), crowd=MANY)
        assert json.loads(prepared.new.sent)["backend"] == "elsewhere"
        with pytest.raises(InvalidSpec) as refused:
            await preparer.prepare(Asked(spec | {"backend_options": {"x": 1}}, "default"), crowd=MANY)
        assert [violation.reason for violation in refused.value.violations] == ["NO"]
        with pytest.raises(InvalidSpec, match="1 field"):  # here it is not installed
            await preparer.prepare(Asked(spec, "default"), crowd=1)
        assert preparer.entrusted == 2
