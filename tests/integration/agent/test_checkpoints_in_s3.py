"""Real trainings whose checkpoints are in S3: another node goes on from there, and what is said to be there is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.agent.conftest import Agent, _end_trainers, until
from tests.integration.agent.test_object_store import OUTPUT, ROLE, aws, start
from tests.support.aws import Aws, running_aws
from tests.support.eventually import eventually
from tests.support.fake_control_plane import Job
from tests.support.freezing import freeze
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane

__all__ = ["aws", "running_aws"]

ENDED_SECONDS = 160.0
"""A trainer imports torch and PEFT on a machine that runs other tests too."""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def other(agent: Agent, tmp_path: Path) -> Iterator[Agent]:
    """An agent that has nothing of the first one's disk."""
    made = replace(agent, data_dir=tmp_path / "other", process=None)
    yield made
    made.kill()
    print(made.log)  # noqa: T201  # pytest shows it where the test failed
    _end_trainers(made.data_dir)


def spec(tmp_path: Path, model: Path, **tuning: Any) -> dict[str, Any]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {n}? ", "completion": f"{n}."}) + "\n" for n in range(24)))
    return {
        "backend": "peft",
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 4, "precision": "fp32", "lora_dropout": 0.2},
        "datasets": [{"source": rows.as_uri()}],
        "tuning_parameters": {"learning_rate": 1e-3, "batch_size": 4, "packing": True, **tuning},
        "artifacts": {"output_uri": OUTPUT, "auth": {"role_arn": ROLE}},
        "resources": {"cpus": 1},
    }


def stored(store: Aws, job: Job) -> list[int]:
    """The steps of those that are whole."""
    names = store.contents(f"{OUTPUT}.checkpoints/{job.key[0]}/")
    return sorted(int(name.split(".")[0]) for name in names if name.endswith("/manifest.json"))


async def test_a_job_whose_node_is_gone_goes_on_from_s3_at_another(
    control_plane: FakeControlPlane, agent: Agent, other: Agent, aws: Aws, tmp_path: Path, model: Path
) -> None:
    """One checkpoint's way there is cut in the midst of a file, which is tried again."""
    cut = aws.door.cut_request("PutObject", after_bytes=2000, key_ends="optimizer.safetensors")
    start(agent, aws)
    job = await control_plane.assign(spec(tmp_path, model, max_steps=150, checkpoint_steps=20))
    await eventually(lambda: job.last("checkpointed"), deadline_seconds=ENDED_SECONDS)
    freeze(agent.trainer_pid(job))
    await eventually(lambda: stored(aws, job), deadline_seconds=ENDED_SECONDS)
    assert cut.done == 1
    process = json.loads((agent.directory(job) / "process.json").read_text())
    agent.kill()
    os.killpg(process["pid"], signal.SIGKILL)
    assert '"finished"' not in (agent.directory(job) / "reports.jsonl").read_text()
    steps = stored(aws, job)
    shutil.rmtree(agent.data_dir)

    del control_plane.jobs[job.key]
    second = Job({**job.assignment, "attempt": 2})
    control_plane.jobs[second.key] = second
    aws.door.calls.clear()
    start(other, aws)
    await control_plane.wake()
    await eventually(lambda: second.last("published"), deadline_seconds=ENDED_SECONDS)
    contents = aws.contents(OUTPUT)
    assert json.loads(contents["provenance.json"])["training"]["resumed_from"] == steps[-1]
    assert not [name for name in contents if name.startswith(".checkpoints/")]
    roles = {aws.door.sessions[call.access_key][0] for call in aws.door.calls if "/.checkpoints/" in call.key}
    assert roles == {ROLE}


async def test_a_loss_that_is_not_finite_is_told_when_the_last_good_checkpoint_is_in_s3(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws, tmp_path: Path, model: Path
) -> None:
    # Norms make 0 of numbers that are merely large, and the loss stays finite: these overflow at the third step.
    exploding = {"learning_rate": 1.7e19, "max_grad_norm": 0, "warmup_ratio": 1.0, "checkpoint_steps": 1}
    start(agent, aws)
    job = await control_plane.assign(spec(tmp_path, model, packing=False, max_steps=20, **exploding))
    failed = await eventually(lambda: job.last("failed"), deadline_seconds=ENDED_SECONDS)
    assert failed.reason == "LOSS_NOT_FINITE"
    [good] = [int(path.name) for path in (agent.directory(job) / "checkpoints").glob("[0-9]*")]
    assert good > 0
    assert failed.message.endswith(
        f"; the state after step {good} is kept as a checkpoint below {OUTPUT}.checkpoints/{job.key[0]}/, and was good"
    )
    assert good in stored(aws, job)
    await until(lambda: job.stage == "ENDED")
