"""A real training by two ranks under a real agent: published, stopped, and bereft of its leader."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from agent import cgroups
from tests.integration.agent.conftest import Agent, alive
from tests.support.eventually import eventually
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from tests.support.fake_control_plane import FakeControlPlane, Job

STARTED_SECONDS = 160.0
"""Each rank imports torch and peft, on a machine that runs other tests too."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def lora_spec(tmp_path: Path, model: Path, **tuning: Any) -> dict[str, Any]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {n}? ", "completion": f"{n}."}) + "\n" for n in range(12)))
    return {
        "backend": "peft",
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 4, "precision": "fp32"},
        "datasets": [{"source": rows.as_uri()}],
        "tuning_parameters": {"learning_rate": 1e-3, "batch_size": 4, **tuning},
        "artifacts": {"output_uri": (tmp_path / "out").as_uri()},
        "resources": {"gpus": 2, "cpus": 2},
    }


async def in_training(control_plane: FakeControlPlane, agent: Agent, spec: dict[str, Any]) -> tuple[Job, list[int]]:
    """A job of two ranks that makes its steps, and the pids of its ranks."""
    agent.start()
    job = await control_plane.assign(spec, devices=["0", "1"])
    await eventually(lambda: job.last("progressed"), deadline_seconds=STARTED_SECONDS)
    leader = psutil.Process(agent.trainer_pid(job))
    ranks = [child.pid for child in leader.children() if "agent.trainer.rank" in child.cmdline()]
    assert len(ranks) == 2
    for pid in ranks:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert f"TRAINPLANE_ATTEMPT={job.key[0]}.1".encode() in environment
    return job, ranks


async def test_two_ranks_train_and_publish(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    agent.start()
    job = await control_plane.assign(lora_spec(tmp_path, model), devices=["0", "1"])
    published = await eventually(lambda: job.last("published") or job.last("failed"), deadline_seconds=STARTED_SECONDS)
    assert job.last("failed") is None, job.last("failed")
    assert published.output_uri == (tmp_path / "out").as_uri()
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert (provenance["training"]["world_size"], provenance["training"]["steps"]) == (2, 3)
    numbers = [number for rank in provenance["ranks"] for number in rank["first_epoch"]["numbers"]]
    assert sorted(numbers) == list(range(12))
    assert {rank: f"rank={rank}/2 ".encode() in log for rank, log in job.logs.items()} == {0: True, 1: True}


async def test_a_stop_order_ends_all_ranks_before_stopped_is_reported(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    job, ranks = await in_training(control_plane, agent, lora_spec(tmp_path, model, max_steps=1_000_000))
    await control_plane.stop(job)
    await eventually(lambda: job.last("stopped"))
    assert not any(alive(pid) for pid in ranks)
    assert (agent.directory(job) / "exit").read_text() == "143\n"


async def test_ranks_that_want_more_memory_than_their_bound_fail_for_that(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    """Whoever comes first tells it: the leader, or where the kernel or the agent has ended that too, the agent."""
    bounds = cgroups.found()
    if "memory" not in bounds.enforced:
        pytest.skip(f"this host enforces no bounds: {bounds.shown()}")
    agent.flags = ()
    agent.start()
    spec = lora_spec(tmp_path, model) | {"resources": {"gpus": 0, "cpus": 2, "memory_gb": 0.1875}}
    job = await control_plane.assign(spec, world_size=2)
    failed = await eventually(lambda: job.last("failed"), deadline_seconds=STARTED_SECONDS)
    assert failed.reason == "OUT_OF_MEMORY_HOST"
    assert failed.message.startswith("resources.memory_gb: the trainer needed more than its 0.1875 GiB")


async def test_a_leader_that_is_killed_leaves_no_rank_and_the_attempt_fails(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    job, ranks = await in_training(control_plane, agent, lora_spec(tmp_path, model, max_steps=1_000_000))
    os.kill(agent.trainer_pid(job), signal.SIGKILL)
    failed = await eventually(lambda: job.last("failed"))
    assert failed.reason == "TRAINER_CRASHED"
    assert not any(alive(pid) for pid in ranks)
