"""A stop order, a deadline, an agent that is told to end: what is left of the trainers."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

from agent.checkpoint import verified
from tests.integration.agent.conftest import Agent, alive, mock_spec, until
from tests.support.freezing import freeze

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane, Job

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
    agent.start(
        TRAINPLANE_AGENT_DEADLINE_GRACE="PT0.5S",
        TRAINPLANE_AGENT_CHECKPOINT_GRACE="PT0.5S",
        TRAINPLANE_AGENT_GRACE="PT0.2S",
    )
    job = await control_plane.assign(mock_spec(tmp_path, checkpoint_every=1, **LONG), deadline_seconds=3.0)
    await until(lambda: job.last("checkpointed"))
    freeze(agent.trainer_pid(job))
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "DEADLINE_EXCEEDED"
    step = max(int(path.name) for path in (agent.directory(job) / "checkpoints").glob("[0-9]*"))
    assert (
        f"; the state after step {step} is kept as a checkpoint below {(tmp_path / 'out').as_uri()}/" in failed.message
    )
    assert not alive(agent.trainer_pid(job))


def stored(tmp_path: Path, job: Job) -> list[int]:
    """The steps of the whole checkpoints beside the output."""
    found = (tmp_path / "out" / ".checkpoints" / job.key[0]).glob("*/manifest.json")
    return sorted(int(path.parent.name.split(".")[0]) for path in found)


async def test_a_stopped_trainer_writes_a_last_checkpoint_which_is_stored_before_it_is_told(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, checkpoint_every=100_000, **LONG))
    await until(lambda: job.last("progressed"))
    await control_plane.stop(job, "PAUSED")
    stopped = await until(lambda: job.last("stopped"))
    assert stopped.reason == "PAUSED"
    assert stored(tmp_path, job) == [job.last("checkpointed").step]
    assert (agent.directory(job) / "exit").read_text() == "143\n"
    assert json.loads((agent.directory(job) / "stop.json").read_text())["checkpoint"] is True


async def test_a_cancelled_trainer_writes_none(control_plane: FakeControlPlane, agent: Agent, tmp_path: Path) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, checkpoint_every=100_000, **LONG))
    await until(lambda: job.last("progressed"))
    await control_plane.stop(job)
    await until(lambda: job.last("stopped"))
    assert "checkpointed" not in job.kinds()
    assert stored(tmp_path, job) == []


async def test_a_cancel_cuts_the_wait_for_a_last_checkpoint_short(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(TRAINPLANE_AGENT_CHECKPOINT_GRACE="PT1H", TRAINPLANE_AGENT_GRACE="PT1H")
    job = await control_plane.assign(mock_spec(tmp_path, checkpoint_every=1, hang_at_step=2, **LONG))
    await until(lambda: job.last("checkpointed"))
    await control_plane.stop(job, "PAUSED")
    await until(lambda: job.stage == "STOPPING")
    await control_plane.stop(job, "CANCELLED")
    stopped = await until(lambda: job.last("stopped"))
    assert stopped.reason == "CANCELLED"


async def test_a_deadline_is_told_when_the_last_checkpoint_is_stored(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    """The store is away when the trainer ends, and told of once; it comes back, and only then the failure is told."""
    agent.start()
    place = tmp_path / "out" / ".checkpoints"
    place.parent.mkdir()
    place.write_text("no directory can be made here")
    spec = mock_spec(tmp_path, checkpoint_every=100_000, **LONG)
    job = await control_plane.assign(spec, deadline_seconds=1.0)
    reports = agent.directory(job) / "reports.jsonl"
    await until(lambda: reports.exists() and '"failed"' in reports.read_text())
    await until(lambda: agent.events("trainer ended"))
    assert not job.last("failed")
    place.unlink()
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "DEADLINE_EXCEEDED"
    step = job.last("checkpointed").step
    assert stored(tmp_path, job) == [step]
    assert failed.message.endswith(
        f"; the state after step {step} is kept as a checkpoint below {(tmp_path / 'out').as_uri()}/.checkpoints/{job.key[0]}/"
    )


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
    agent.start("--end-trainers-on-exit", TRAINPLANE_AGENT_CHECKPOINT_GRACE="PT1S", TRAINPLANE_AGENT_GRACE="PT1S")
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


async def test_an_agent_that_ends_its_trainers_on_exit_stores_what_they_kept_before_it_ends(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start("--end-trainers-on-exit")
    job = await control_plane.assign(mock_spec(tmp_path, checkpoint_every=100_000, **LONG))
    await until(lambda: job.last("progressed"))
    assert await agent.terminate() == 0
    [step] = stored(tmp_path, job)
    assert verified(agent.directory(job) / "checkpoints" / f"{step:08d}").step == step


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
