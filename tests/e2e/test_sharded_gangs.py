"""A model that is sharded over two nodes, of which the first alone may write where the output goes."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from google.api.httpbody_pb2 import HttpBody

from tests.e2e.test_gangs import State, rank, reached, wait_for
from tests.support.aws import CREDENTIALS, REGION, aws
from tests.support.eventually import eventually
from tests.support.stack import Stack, stubs
from tests.support.tiny_models import write_tiny_model
from trainplane.v1 import job_service_pb2 as service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.aws import Aws

STEPS = 48
EVERY = 4
NODE = ("--gpus", "1xA100", "--cpus", "2", "--memory-gb", "8", "--rendezvous-address", "127.0.0.1")
OUTPUT = "s3://bucket/out/"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def cloud() -> Iterator[Aws]:
    with aws() as running:
        running.make_bucket()
        yield running


@pytest.fixture
def stack(tmp_path: Path, cloud: Aws) -> Iterator[Stack]:
    """With two nodes of one declared GPU; the second has no credentials, and reaches no store."""
    made = Stack(tmp_path / "stack")
    made.environment["TRAINPLANE_CONTROLPLANE_SYNC_INTERVAL"] = "0.5"
    warm = {"TRAINPLANE_AGENT_WARM_TRAINERS": "true", "AWS_CONFIG_FILE": str(tmp_path / "none")}
    store = {"TRAINPLANE_AGENT_S3_ENDPOINT": cloud.url, "TRAINPLANE_AGENT_S3_REGION": REGION, **CREDENTIALS}
    try:
        made.start(gateway=False)
        made.join("n1", *NODE, **warm, **store)
        made.join("n2", *NODE, **warm, TRAINPLANE_AGENT_S3_ENDPOINT="http://127.0.0.1:1")
        for agent in made.agents.values():
            wait_for(agent, "warm trainers ready")
        yield made
    finally:
        made.stop()


def request(model: Path, folder: Path) -> HttpBody:
    rows = [{"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(32)]
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "job_id": "sharded",
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "full", "precision": "fp32"},
        "resources": {"cpus": 1, "memory_gb": 2, "gpus": 2},
        "datasets": [{"source": data.as_uri()}],
        "artifacts": {"output_uri": OUTPUT},
        "tuning_parameters": {
            "batch_size": 4,
            "max_steps": STEPS,
            "checkpoint_steps": EVERY,
            "sharding": "full",
        },
    }
    return HttpBody(content_type="application/json", data=json.dumps(document).encode())


async def test_a_sharded_gang_goes_on_after_a_crash_and_its_first_node_alone_writes(
    stack: Stack, cloud: Aws, tmp_path: Path
):
    from safetensors.torch import load

    model = write_tiny_model(tmp_path / "model")
    async with stubs(stack.address) as (jobs, _):
        job = await jobs.SubmitTraining(request(model, tmp_path))
        first, second = (stack.directory / node / "attempts" / f"{job.uid}.1" for node in ("n1", "n2"))
        await eventually(lambda: list(first.glob("checkpoints/0*/manifest.json")), deadline_seconds=300)
        os.kill(rank(second, 1).pid, signal.SIGKILL)

        done = await reached(jobs, "sharded", State.SUCCEEDED, seconds=500)
        shown = [(attempt.node, list(attempt.other_nodes), attempt.reason) for attempt in done.attempts]
        assert shown == [("n1", ["n2"], "TRAINER_CRASHED"), ("n1", ["n2"], "")]
        events = (await jobs.ListJobEvents(service.ListJobEventsRequest(job_id="sharded", page_size=1000))).events
        [lost] = [event.message for event in events if event.type == "job.recovering"]
        assert lost.startswith("rank 1 was ended by SIGKILL"), lost

    output = cloud.contents(OUTPUT)
    told = json.loads(output["provenance.json"])
    assert told["training"]["resumed_from"] in range(EVERY, STEPS, EVERY)
    assert told["training"]["sharding"]["kind"] == "full"
    whole = told["training"]["sharding"]["parameter_bytes"]
    assert [each["rank"] for each in told["ranks"]] == [0, 1]
    assert all(each["parameter_bytes"] < 0.6 * whole for each in told["ranks"])
    assert len(told["losses"]["steps"]) == STEPS
    assert told["losses"]["steps"][-1] < told["losses"]["steps"][0]
    trained = load(output["model.safetensors"])
    assert sum(each.numel() * each.element_size() for each in trained.values()) == whole
    assert not any(name.startswith((".attempts", ".checkpoints")) for name in output)
