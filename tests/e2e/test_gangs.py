"""A job larger than a node: two agents train it together, and what ends one of them ends, and resumes, both."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from google.api.httpbody_pb2 import HttpBody

from tests.support.eventually import eventually
from tests.support.stack import Part, Stack, stubs
from tests.support.tiny_models import write_tiny_model
from trainplane.v1 import job_pb2, node_service_pb2
from trainplane.v1 import job_service_pb2 as service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = 160
EVERY = 20
NODE = ("--gpus", "2xA100", "--cpus", "2", "--memory-gb", "8", "--rendezvous-address", "127.0.0.1")
State = job_pb2.Job.State

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """With two nodes of two declared GPUs, which fork their trainers."""
    made = Stack(tmp_path / "stack")
    made.environment["TRAINPLANE_CONTROLPLANE_SYNC_INTERVAL"] = "0.5"
    try:
        made.start(gateway=False)
        for node in ("n1", "n2"):
            made.join(node, *NODE, TRAINPLANE_AGENT_WARM_TRAINERS="true")
        for agent in made.agents.values():
            wait_for(agent, "warm trainers ready")
        yield made
    finally:
        made.stop()


def wait_for(agent: Part, words: str) -> None:
    """Until the agent has said so."""
    end = time.monotonic() + 90
    while words not in agent.log.read_text():
        assert time.monotonic() < end, agent.log.read_text()[-2000:]
        time.sleep(0.05)


def request(job_id: str, model: Path, folder: Path, *, gpus: int) -> HttpBody:
    rows = [{"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(64)]
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "job_id": job_id,
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {
            "method": "lora", "rank": 4, "target_modules": ["q_proj", "v_proj"], "precision": "fp32", "lora_dropout": 0
        },
        "resources": {"cpus": 1, "memory_gb": 2, "gpus": gpus},
        "datasets": [{"source": data.as_uri()}],
        "artifacts": {"output_uri": f"file://{folder}/{job_id}/"},
        "tuning_parameters": {"batch_size": 8, "max_steps": STEPS, "checkpoint_steps": EVERY},
    }  # fmt: skip
    return HttpBody(content_type="application/json", data=json.dumps(document).encode())


async def reached(jobs, job_id: str, state: int, *, seconds: float = 180):
    async def there():
        job = await jobs.GetJob(service.GetJobRequest(job_id=job_id))
        if job.state in {State.FAILED, State.SUCCEEDED} and job.state != state:
            pytest.fail(f"{job.state} {job.reason} {job.message}")
        return job if job.state == state else None

    return await eventually(there, deadline_seconds=seconds)


def rank(directory: Path, number: int) -> psutil.Process:
    """The process that trains as that rank."""
    leader = json.loads((directory / "process.json").read_text())["pid"]
    argv = ["agent.trainer.rank", str(directory), str(number)]
    found = [
        each
        for each in psutil.Process(leader).children(recursive=True)
        if [word for word in each.cmdline() if word][-3:] == argv
    ]
    assert len(found) == 1, found
    return found[0]


async def test_two_nodes_train_what_one_would_and_go_on_together_after_a_crash_of_one(stack, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    async with stubs(stack.address) as (jobs, nodes):
        job = await jobs.SubmitTraining(request("gang", model, tmp_path, gpus=4))
        first, second = (stack.directory / node / "attempts" / f"{job.uid}.1" for node in ("n1", "n2"))
        await eventually(lambda: list(first.glob("checkpoints/0*/manifest.json")), deadline_seconds=120)
        os.kill(rank(second, 3).pid, signal.SIGKILL)

        done = await reached(jobs, "gang", State.SUCCEEDED)
        events = (await jobs.ListJobEvents(service.ListJobEventsRequest(job_id="gang", page_size=1000))).events
        [(reason, lost)] = [(event.reason, event.message) for event in events if event.type == "job.recovering"]
        assert reason == "TRAINER_CRASHED"
        assert lost.startswith("rank 3 was ended by SIGKILL"), lost
        shown = [(attempt.node, list(attempt.other_nodes), attempt.reason) for attempt in done.attempts]
        assert shown == [("n1", ["n2"], "TRAINER_CRASHED"), ("n1", ["n2"], "")]

        together = json.loads((tmp_path / "gang" / "provenance.json").read_text())
        assert together["training"]["world_size"] == 4
        assert [each["rank"] for each in together["ranks"]] == [0, 1, 2, 3]
        assert len({each["adapter_sha256"] for each in together["ranks"]}) == 1
        assert together["training"]["resumed_from"] in range(EVERY, STEPS, EVERY)

        async def idle():
            listed = await nodes.ListNodes(node_service_pb2.ListNodesRequest())
            return not any(gpu.job_id for node in listed.nodes for gpu in node.gpus)

        await eventually(idle)
        await jobs.SubmitTraining(request("alone", model, tmp_path, gpus=1))
        await reached(jobs, "alone", State.SUCCEEDED)
        alone = json.loads((tmp_path / "alone" / "provenance.json").read_text())
        assert together["losses"]["steps"] == pytest.approx(alone["losses"]["steps"], rel=1e-4)
