"""Real trainings that are forked under a real agent: the same as spawned ones, and no less their own."""

from __future__ import annotations

import hashlib
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

IMPORTED_SECONDS = 160.0
"""A process imports torch and PEFT on a machine that runs other tests too."""
ENDED_SECONDS = 60.0
SECRET = "hf_CANARYCANARYCANARY"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def spec(tmp_path: Path, model: Path, output: str, **tuning: Any) -> dict[str, Any]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {n}? ", "completion": f"{n}."}) + "\n" for n in range(12)))
    return {
        "backend": "peft",
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 4, "precision": "fp32", "peft": {"config": {"lora_dropout": 0.1}}},
        "datasets": [{"source": rows.as_uri()}],
        "tuning_parameters": {"learning_rate": 1e-3, "batch_size": 4, **tuning},
        "artifacts": {"output_uri": (tmp_path / output).as_uri()},
        "resources": {"cpus": 1},
    }


async def warmed_up(agent: Agent) -> int:
    """Start it; the fork server's pid, once it is ready."""
    agent.start(TRAINPLANE_AGENT_WARM_TRAINERS="true", HF_TOKEN=SECRET)
    before = len(agent.events("warm trainers ready"))
    await eventually(lambda: agent.events("warm trainers ready")[before:], deadline_seconds=IMPORTED_SECONDS)
    return int(agent.events("warm trainers ready")[-1]["pid"])


def is_forked(pid: int) -> bool:
    """Only a forked trainer has a shim that is a Python."""
    shim = psutil.Process(pid).parent()
    return shim is not None and any(argument.endswith("shim.py") for argument in shim.cmdline())


async def published(job: Job, output: Path) -> str:
    """The digest of the adapter."""
    await eventually(lambda: job.last("published") or job.last("failed"), deadline_seconds=IMPORTED_SECONDS)
    assert job.last("failed") is None, job.last("failed")
    return hashlib.sha256((output / "adapter_model.safetensors").read_bytes()).hexdigest()


async def test_forked_trainings_end_in_the_bytes_of_spawned_ones(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    """Also where one quantizes, with a library that the process they are forked from takes for missing."""
    methods = ("lora", "qlora", "lora")
    digests = {}
    for start in ("spawned", "forked"):
        if start == "forked":
            await warmed_up(agent)
        else:
            agent.start(TRAINPLANE_AGENT_WARM_TRAINERS="false")
        for turn, method in enumerate(methods):
            output = f"{start}-{turn}"
            asked = spec(tmp_path, model, output)
            asked["customization"] |= {"method": method, "precision": "fp32" if method == "lora" else "bf16"}
            digests[start, turn] = await published(await control_plane.assign(asked), tmp_path / output)
        await agent.terminate()
        assert bool(agent.events("warm trainers ready")) == (start == "forked")
    assert [digests["forked", turn] for turn in range(3)] == [digests["spawned", turn] for turn in range(3)]
    assert digests["forked", 0] == digests["forked", 2] != digests["forked", 1]
    assert agent.events("trainer not forked") == []


async def test_a_forked_trainer_of_a_killed_agent_is_taken_back_and_stopped(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    agent.flags = ()  # the number of threads is then set, which a process that forks must not have heeded yet
    server = await warmed_up(agent)
    job = await control_plane.assign(spec(tmp_path, model, "out", max_steps=1_000_000), world_size=2)
    await eventually(lambda: job.last("progressed"), deadline_seconds=ENDED_SECONDS)
    trainer = agent.trainer_pid(job)
    ranks = [child.pid for child in psutil.Process(trainer).children()]
    assert is_forked(trainer)
    assert len(ranks) == 2
    for pid in (trainer, *ranks):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert f"TRAINPLANE_ATTEMPT={job.key[0]}.1".encode() in environment
        assert SECRET.encode() not in environment

    agent.kill()
    await eventually(lambda: not alive(server))
    assert all(alive(pid) for pid in (trainer, *ranks))
    step = job.last("progressed").step
    agent.start(TRAINPLANE_AGENT_WARM_TRAINERS="false")
    await eventually(lambda: agent.events("attempt taken back"))
    assert agent.events("attempt taken back")[-1]["pid"] == psutil.Process(trainer).ppid()
    await eventually(lambda: job.last("progressed").step > step)

    await control_plane.stop(job)
    await eventually(lambda: job.last("stopped"), deadline_seconds=ENDED_SECONDS)
    assert not any(alive(pid) for pid in (trainer, *ranks))
    assert (agent.directory(job) / "exit").read_text() == "143\n"


async def test_the_death_of_a_forked_rank_ends_the_attempt_with_its_number(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    await warmed_up(agent)
    job = await control_plane.assign(spec(tmp_path, model, "out", max_steps=1_000_000), world_size=2)
    await eventually(lambda: job.last("progressed"), deadline_seconds=ENDED_SECONDS)
    trainer = psutil.Process(agent.trainer_pid(job))
    assert is_forked(trainer.pid)
    ranks = {int([word for word in child.cmdline() if word][-1]): child.pid for child in trainer.children()}
    os.kill(ranks[1], signal.SIGKILL)
    failed = await eventually(lambda: job.last("failed"), deadline_seconds=ENDED_SECONDS)
    assert failed.reason == "TRAINER_CRASHED"
    assert failed.message.startswith("rank 1 was ended by SIGKILL")
    assert not any(alive(pid) for pid in ranks.values())


async def test_a_forked_trainer_is_bound_like_a_spawned_one(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: Path
) -> None:
    """What it shares with the server is not charged to it; what it takes itself is."""
    bounds = cgroups.found()
    if "memory" not in bounds.enforced:
        pytest.skip(f"this host enforces no bounds: {bounds.shown()}")
    agent.flags = ()
    server = await warmed_up(agent)
    tight = spec(tmp_path, model, "out", max_steps=1_000_000) | {"resources": {"cpus": 1, "memory_gb": 0.03125}}
    job = await control_plane.assign(tight)
    failed = await eventually(lambda: job.last("failed"), deadline_seconds=ENDED_SECONDS)
    assert failed.reason == "OUT_OF_MEMORY_HOST"
    assert failed.message.startswith("resources.memory_gb: the trainer needed more than its 0.03125 GiB")
    assert alive(server)
    assert agent.events("trainer not forked") == []
