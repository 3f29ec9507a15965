"""A job whose node is gone goes on at another one, from a checkpoint in shared storage, to the very same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from google.api.httpbody_pb2 import HttpBody

from tests.support.eventually import eventually
from tests.support.stack import Stack, stubs
from tests.support.tiny_models import write_tiny_model
from trainplane.v1 import job_pb2
from trainplane.v1 import job_service_pb2 as service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = 400
EVERY = 20
State = job_pb2.Job.State

pytestmark = pytest.mark.timeout(600)
AGENT = ("--gpus", "1xL4", "--cpus", "2", "--memory-gb", "8")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """One that gives a silent node up soon."""
    made = Stack(tmp_path / "stack")
    made.environment["TRAINPLANE_CONTROLPLANE_SYNC_INTERVAL"] = "0.5"
    made.environment["TRAINPLANE_CONTROLPLANE_NODE_GRACE"] = "4"
    try:
        made.start(gateway=False)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def request(job_id: str, model: Path, folder: Path) -> HttpBody:
    rows = [{"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(64)]
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "job_id": job_id,
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {
            "method": "lora", "rank": 4, "target_modules": ["q_proj", "v_proj"], "precision": "fp32", "lora_dropout": 0.2
        },
        "resources": {"cpus": 1, "memory_gb": 2},
        "datasets": [{"source": data.as_uri()}],
        "artifacts": {"output_uri": f"file://{folder}/{job_id}/"},
        "tuning_parameters": {"batch_size": 4, "max_steps": STEPS, "checkpoint_steps": EVERY, "packing": True},
    }  # fmt: skip
    return HttpBody(content_type="application/json", data=json.dumps(document).encode())


async def reached(jobs, job_id: str, state: int):
    async def there():
        job = await jobs.GetJob(service.GetJobRequest(job_id=job_id))
        if job.state in {State.FAILED, State.SUCCEEDED} and job.state != state:
            pytest.fail(f"{job.state} {job.reason} {job.message}")
        return job if job.state == state else None

    return await eventually(there, deadline_seconds=180)


def stored(output: Path, uid: str) -> list[Path]:
    """Whole ones, oldest first."""
    return sorted(path.parent for path in (output / ".checkpoints" / uid).glob("*/manifest.json"))


def lose(stack: Stack, node: str, uid: str) -> None:
    """The node is gone: agent, trainer, disk."""
    process = json.loads((stack.directory / node / "attempts" / f"{uid}.1" / "process.json").read_text())
    stack.agents.pop(node).kill()
    os.killpg(process["pid"], signal.SIGKILL)
    reports = (stack.directory / node / "attempts" / f"{uid}.1" / "reports.jsonl").read_text()
    assert '"finished"' not in reports
    shutil.rmtree(stack.directory / node / "attempts", ignore_errors=True)


@pytest.mark.parametrize("newest_is_broken", [False, True])
async def test_it_ends_in_the_bytes_of_an_unbroken_run(stack, model, tmp_path, newest_is_broken):
    drawn = random.Random(newest_is_broken)
    stack.join("n1", *AGENT)
    async with stubs(stack.address) as (jobs, _):
        job = await jobs.SubmitTraining(request("broken", model, tmp_path))
        output = tmp_path / "broken"
        least = drawn.randrange(2 * EVERY, STEPS // 2)
        await eventually(
            lambda: len(found := stored(output, job.uid)) == 2 and int(found[-1].name.split(".")[0]) >= least,
            deadline_seconds=120,
        )
        lose(stack, "n1", job.uid)
        steps = [int(path.name.split(".")[0]) for path in stored(output, job.uid)]
        if newest_is_broken:
            victim = stored(output, job.uid)[-1] / "optimizer.safetensors"
            victim.write_bytes(victim.read_bytes()[:-1] + b"!")
        stack.join("n2", *AGENT)
        done = await reached(jobs, "broken", State.SUCCEEDED)
        assert [(attempt.node, attempt.reason) for attempt in done.attempts] == [("n1", "NODE_LOST"), ("n2", "")]
        provenance = json.loads((output / "provenance.json").read_text())
        assert provenance["training"]["resumed_from"] == steps[0 if newest_is_broken else 1]
        events = (await jobs.ListJobEvents(service.ListJobEventsRequest(job_id="broken", page_size=1000))).events
        passed_over = [event.message for event in events if "is passed over" in event.message]
        assert [words.split(":")[0] for words in passed_over] == (
            [f"the checkpoint of step {steps[1]} is passed over"] if newest_is_broken else []
        )
        assert not (output / ".checkpoints").exists()

        await jobs.SubmitTraining(request("whole", model, tmp_path))
        await reached(jobs, "whole", State.SUCCEEDED)
        unbroken = json.loads((tmp_path / "whole" / "provenance.json").read_text())
        assert unbroken["training"]["resumed_from"] == 0
        assert provenance["losses"] == unbroken["losses"]
        weights = "adapter_model.safetensors"
        assert (output / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


async def test_storage_that_is_away_for_a_while_is_told_once_and_training_goes_on(stack, model, tmp_path):
    stack.join("n1", *AGENT)
    place = tmp_path / "away" / ".checkpoints"
    place.parent.mkdir()
    place.write_text("no directory can be made here")
    async with stubs(stack.address) as (jobs, _):
        job = await jobs.SubmitTraining(request("away", model, tmp_path))

        async def warnings():
            events = await jobs.ListJobEvents(service.ListJobEventsRequest(job_id="away", page_size=1000))
            return [event for event in events.events if event.type == "job.warning"]

        await eventually(warnings, deadline_seconds=120)
        place.unlink()
        await eventually(lambda: stored(tmp_path / "away", job.uid), deadline_seconds=120)
        await reached(jobs, "away", State.SUCCEEDED)
        [told] = await warnings()
        assert told.reason == "CHECKPOINT_NOT_STORED"
        assert told.message.startswith("training goes on, but its newest checkpoint is on its node alone for now: ")
        assert not place.exists()
