"""The agent killed at any moment: the next one goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.agent.conftest import Agent, alive, mock_spec, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane

LONG = {"steps": 100_000, "step_seconds": 0.05}


async def test_a_restarted_agent_takes_a_live_trainer_back(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, steps=100, step_seconds=0.03, progress_every_step=True))
    await until(lambda: job.last("progressed"))
    pid = agent.trainer_pid(job)
    agent.kill()
    assert alive(pid)
    agent.start()
    await until(lambda: job.last("published"))
    assert job.kinds().count("started") == 1
    assert [report.progressed.step for report in job.reports if report.HasField("progressed")] == list(range(1, 101))
    assert len(job.pids) == 1


async def test_what_a_trainer_did_while_no_agent_was_there_is_reported_and_published(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, steps=20, step_seconds=0.05))
    await until(lambda: job.last("started"))
    agent.kill()
    await until((agent.directory(job) / "exit").exists)
    agent.start()
    await until(lambda: job.last("published"))
    assert bytes(job.log) == (agent.directory(job) / "logs" / "rank-0.log").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "after_nonce",
        "after_claim",
        "after_assignment",
        "after_spawn",
        "after_process",
        "after_log",
        "after_stage",
        "after_staged",
        "after_grant",
        "after_publish",
        "after_published",
        "after_published_line",
    ],
)
async def test_killed_between_two_durable_steps_a_job_is_still_run_and_published_once(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, name: str
) -> None:
    agent.start(failpoint=f"agent.{name}")
    job = await control_plane.assign(mock_spec(tmp_path, steps=3, step_seconds=0.02))
    assert await agent.ended() == -signal.SIGKILL
    agent.start()
    await until(lambda: job.last("published"))
    assert job.kinds().count("started") == 1
    assert job.kinds()[-2:] == ["finished", "published"]
    await until(lambda: job.stage == "ENDED")
    assert not (tmp_path / "out" / ".attempts").exists()


@pytest.mark.parametrize("name", ["after_stop_order", "after_kill", "after_stopped_line"])
async def test_killed_while_stopping_an_attempt_is_still_stopped_once(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, name: str
) -> None:
    agent.start(failpoint=f"agent.{name}")
    job = await control_plane.assign(mock_spec(tmp_path, **LONG))
    await until(lambda: job.last("started"))
    await control_plane.stop(job)
    assert await agent.ended() == -signal.SIGKILL
    agent.start()
    await until(lambda: job.last("stopped"))
    assert job.kinds().count("stopped") == 1
    assert "failed" not in job.kinds()
    assert not alive(agent.trainer_pid(job))


async def test_killed_after_a_failure_was_written_it_is_reported_once(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(failpoint="agent.after_failed_line")
    job = await control_plane.assign(mock_spec(tmp_path, crash_at_step=2))
    assert await agent.ended() == -signal.SIGKILL
    agent.start()
    await until(lambda: job.stage == "ENDED")
    await until(lambda: job.last("failed"))
    assert job.kinds().count("failed") == 1


@pytest.mark.parametrize("name", ["after_copy", "before_manifest", "after_manifest", "before_unstage"])
async def test_a_publisher_killed_halfway_rolls_forward(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, name: str
) -> None:
    agent.start(failpoint=f"uploader.{name}")
    job = await control_plane.assign(mock_spec(tmp_path, steps=1, step_seconds=0.01))
    await until(lambda: agent.events("output not published"))
    assert job.last("published") is None
    agent.kill()
    agent.start()
    published = await until(lambda: job.last("published"))
    assert published.manifest_digest == job.granted
    assert {file.path for file in published.files} | {"manifest.json"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }


async def test_a_process_that_merely_has_the_trainers_former_number_is_neither_adopted_nor_killed(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **LONG))
    await until(lambda: job.last("started"))
    agent.kill()
    os.killpg(os.getsid(agent.trainer_pid(job)), signal.SIGKILL)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        noted = agent.directory(job) / "process.json"
        noted.write_text(json.dumps({**json.loads(noted.read_text()), "pid": bystander.pid}))
        agent.start()
        failed = await until(lambda: job.last("failed"))
        assert failed.reason == "TRAINER_CRASHED"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_an_attempt_of_an_earlier_boot_is_reported_lost_with_its_node(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **LONG))
    await until(lambda: job.last("started"))
    agent.kill()
    os.killpg(os.getsid(agent.trainer_pid(job)), signal.SIGKILL)
    claim = agent.directory(job) / "claim.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "boot_id": "of yesterday"}))
    agent.start()
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "NODE_LOST"


async def test_a_log_is_resumed_where_the_control_plane_has_it(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    spec = mock_spec(tmp_path, steps=80, step_seconds=0.05, log_lines=200)
    job = await control_plane.assign(spec)
    await until(lambda: len(job.log) > 10_000)
    agent.kill()
    had = len(job.log)
    agent.start()
    await until(lambda: len(job.log) > had)
    await until(lambda: job.last("published"))
    assert bytes(job.log) == (agent.directory(job) / "logs" / "rank-0.log").read_bytes()


async def test_a_second_agent_on_the_same_directory_is_refused_and_told_by_whom(
    control_plane: FakeControlPlane, agent: Agent
) -> None:
    agent.start()
    await until(lambda: agent.events("agent ready"))
    first = agent.process
    agent.start()
    try:
        assert await agent.ended() == 1
        assert first is not None
        assert f"in use by another agent, process {first.pid}" in agent.log
    finally:
        agent.process = first
