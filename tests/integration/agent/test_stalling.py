"""Trainers that are alive and get nowhere: ended as STALLED, with the stacks of every rank in the logs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.integration.agent.conftest import Agent, alive, mock_spec, until
from tests.support.eventually import eventually
from tests.support.freezing import freeze
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane, Job

SHORT = "PT1S"
LONG = "PT1H"
PATIENT = "PT5S"
"""Longer than the fake trainer takes to start on a machine that runs other tests too."""
STARTED_SECONDS = 160.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def lora_spec(tmp_path: Path, model: Path, rows: Path) -> dict[str, Any]:
    return {
        "backend": "peft",
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 4, "precision": "fp32"},
        "datasets": [{"source": rows.as_uri()}],
        "tuning_parameters": {"learning_rate": 1e-3, "batch_size": 4, "max_steps": 1_000_000},
        "artifacts": {"output_uri": (tmp_path / "out").as_uri()},
        "resources": {"cpus": 2},
    }


def lose_patience(agent: Agent) -> None:
    """Another agent takes the trainer back, which is less patient; how long a start takes plays no part then."""
    agent.kill()
    agent.start(TRAINPLANE_AGENT_STALL_TIMEOUT=SHORT)


async def stalled(job: Job, deadline_seconds: float = 60.0) -> str:
    failed = await eventually(lambda: job.last("failed"), deadline_seconds=deadline_seconds)
    assert failed.reason == "STALLED", failed.message
    return str(failed.message)


async def test_a_trainer_that_hangs_is_ended_with_its_stacks_in_the_log(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(TRAINPLANE_AGENT_STALL_TIMEOUT=PATIENT)
    job = await control_plane.assign(mock_spec(tmp_path, hang_at_step=3, ignore_sigterm=True, grandchild=True))
    message = await stalled(job)
    assert "stall_timeout" in message
    assert b"in _go_wrong" in job.log
    assert b"(most recent call first)" in job.log
    assert not alive(agent.trainer_pid(job))
    assert agent.events("stopping")[-1]["reason"] == "STALLED"


async def test_a_trainer_that_shows_progress_is_left_alone_however_long_it_takes(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(TRAINPLANE_AGENT_STALL_TIMEOUT=PATIENT)
    job = await control_plane.assign(mock_spec(tmp_path, steps=40, step_seconds=0.2))
    await until(lambda: job.last("published") or job.last("failed"))
    assert job.last("failed") is None


async def test_by_a_timeout_of_zero_nothing_stalls(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(TRAINPLANE_AGENT_STALL_TIMEOUT="PT0S")
    job = await control_plane.assign(mock_spec(tmp_path, steps=5, step_seconds=0.3))
    await until(lambda: job.last("published") or job.last("failed"))
    assert job.last("failed") is None


async def test_a_hanging_trainer_is_ended_by_an_agent_that_took_it_back(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(TRAINPLANE_AGENT_STALL_TIMEOUT=LONG)
    job = await control_plane.assign(mock_spec(tmp_path, hang_at_step=1))
    await until(lambda: job.last("started"))
    lose_patience(agent)
    await stalled(job)
    assert b"in _go_wrong" in job.log


async def test_a_real_trainer_that_waits_for_a_dataset_for_ever_says_where(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    agent.start(TRAINPLANE_AGENT_STALL_TIMEOUT=LONG)
    job = await control_plane.assign(lora_spec(tmp_path, model, fifo))
    reports = agent.directory(job) / "reports.jsonl"
    await until(lambda: reports.exists() and "PREPARING_DATA" in reports.read_text())
    lose_patience(agent)
    await stalled(job)
    assert b"in read_dataset" in job.log


async def test_where_one_of_two_ranks_hangs_both_say_where_they_are(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    """The one that was stopped says it when it goes on, before it goes on."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {n}? ", "completion": f"{n}."}) + "\n" for n in range(12)))
    agent.start(TRAINPLANE_AGENT_STALL_TIMEOUT=LONG)
    job = await control_plane.assign(lora_spec(tmp_path, model, rows), devices=["0", "1"])
    await eventually(lambda: job.last("progressed"), deadline_seconds=STARTED_SECONDS)
    ranks = {int(child.cmdline()[-1]): child for child in psutil.Process(agent.trainer_pid(job)).children()}
    freeze(ranks[1].pid)
    lose_patience(agent)
    await stalled(job, STARTED_SECONDS)
    assert b"in add_up" in job.logs[0]
    assert b"(most recent call first)" in job.logs[1]
    assert not any(alive(child.pid) for child in ranks.values())
