"""A stop order, a deadline, an agent that is told to end: what is left of the trainers."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from tests.integration.agent.conftest import Agent, alive, mock_spec, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane

LONG = {"steps": 100_000, "step_seconds": 0.05}


async def test_a_stopped_trainer_ends_by_itself_and_its_log_is_complete(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **LONG))
    await until(lambda: job.last("progressed"))
    pid = agent.trainer_pid(job)
    await control_plane.stop(job)
    stopped = await until(lambda: job.last("stopped"))
    assert stopped.reason == "CANCELLED"
    assert not alive(pid)
    assert bytes(job.log) == (agent.directory(job) / "logs" / "rank-0.log").read_bytes()
    assert (agent.directory(job) / "exit").read_text() == "143\n"


async def test_a_grandchild_in_a_session_of_its_own_that_ignores_sigterm_is_gone_before_stopped_is_reported(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(TRAINPLANE_AGENT_GRACE="PT0.5S")
    job = await control_plane.assign(mock_spec(tmp_path, grandchild=True, ignore_sigterm=True, **LONG))
    await until(lambda: job.last("progressed"))
    grandchild = int((agent.directory(job) / "grandchild.pid").read_text())
    assert alive(grandchild)
    assert os.getsid(grandchild) == grandchild
    await control_plane.stop(job)
    await until(lambda: job.last("stopped"))
    assert not alive(grandchild)
    assert not alive(agent.trainer_pid(job))


async def test_a_grandchild_left_by_a_finished_trainer_is_gone_before_the_output_is_published(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, grandchild=True, steps=1, step_seconds=0.01))
    await until(lambda: job.last("published"))
    assert not alive(int((agent.directory(job) / "grandchild.pid").read_text()))


async def test_a_stop_order_for_a_claim_in_flight_ends_it_without_a_trainer(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    control_plane.moods.not_now["claim"] = 10_000
    job = await control_plane.assign(mock_spec(tmp_path, **LONG))
    await until(lambda: "CLAIMING" in job.stages)
    await control_plane.stop(job)
    await until(lambda: job.stage == "ENDED")
    control_plane.moods.not_now["claim"] = 0
    await until(lambda: job.last("stopped"))
    assert job.kinds() == ["stopped"]


async def test_a_trainer_that_hangs_past_its_deadline_is_killed_by_the_agent(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(TRAINPLANE_AGENT_DEADLINE_GRACE="PT1S", TRAINPLANE_AGENT_GRACE="PT0.2S")
    job = await control_plane.assign(mock_spec(tmp_path, **LONG), deadline_seconds=3.0)
    await until(lambda: job.last("started"))
    os.kill(agent.trainer_pid(job), signal.SIGSTOP)
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "DEADLINE_EXCEEDED"
    assert not alive(agent.trainer_pid(job))


async def test_sigterm_ends_the_agent_and_no_trainer(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **LONG))
    await until(lambda: job.last("started"))
    assert await agent.terminate() == 0
    assert alive(agent.trainer_pid(job))


async def test_an_agent_that_shall_end_its_trainers_on_exit_leaves_none(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start("--end-trainers-on-exit")
    spec = mock_spec(tmp_path, ignore_sigterm=True, grandchild=True, **LONG)
    job = await control_plane.assign(spec)
    await until(lambda: job.last("progressed"))
    pids = [agent.trainer_pid(job), int((agent.directory(job) / "grandchild.pid").read_text())]
    began = asyncio.get_running_loop().time()
    assert await agent.terminate() == 0
    assert asyncio.get_running_loop().time() - began < 20
    assert not any(map(alive, pids))
    agent.start()
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "NODE_LOST"


async def test_a_superseded_agent_ends_with_words_and_leaves_its_trainers_alone(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **LONG))
    await until(lambda: job.last("started"))
    control_plane.moods.superseded = True
    await control_plane.wake()
    assert await agent.ended() == 1
    assert "a newer agent of this node exists" in agent.log
    assert alive(agent.trainer_pid(job))
