"""Models from a hub and data from S3, through the real API: a job ends in an adapter, or fails in words.

The hub is a mirror that answers as the real one does; what cannot be had fails before a device is charged.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.hub import HubMirror
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME, TOKEN = "meta-llama/Llama-2-7b", "hf_right-for-this-model"
ENDS = {"SUCCEEDED", "FAILED", "CANCELLED"}
LOAD = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])
moved = all(bool(value.abs().sum()) for name, value in model.named_parameters() if "lora_B" in name)
print(json.dumps({"moved": moved, "rank": model.peft_config["default"].r}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def mirror(model, tmp_path_factory) -> Iterator[HubMirror]:
    pickled = tmp_path_factory.mktemp("pickled")
    (pickled / "consolidated.00.pth").write_bytes(b"pickled")
    (pickled / "params.json").write_text("{}")
    with HubMirror().running() as running:
        running.serve(NAME, model, token=TOKEN)
        running.serve("meta-llama/consolidated", pickled, token=TOKEN)
        running.serve("meta-llama/consolidated-hf", model, token=TOKEN)
        yield running


@pytest.fixture(scope="module")
def hub_node(stack, mirror) -> str:
    stack.join("hub-node", "--gpus", "2xL4", "--cpus", "8", "--memory-gb", "16", "--hub-endpoint", mirror.url)
    return "hub-node"


def request(job_id: str, folder: Path, **changes: Any) -> dict[str, Any]:
    rows = [{"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(16)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "job_id": job_id,
        "base_model": {"provider": "huggingface", "model_name": NAME, "auth_token": TOKEN},
        "customization": {"method": "lora", "rank": 4, "target_modules": ["q_proj", "v_proj"], "precision": "fp32"},
        "resources": {"cpus": 1, "memory_gb": 2},
        "datasets": [{"source": f"file://{folder}/train.jsonl"}],
        "artifacts": {"output_uri": f"file://{folder}/out/"},
        "tuning_parameters": {"learning_rate": 0.01, "batch_size": 8, "num_epochs": 2},
        **changes,
    }


def post(stack, spec: dict[str, Any]) -> dict[str, Any]:
    status, job = stack.http("POST", "/train", json.dumps(spec).encode())
    assert status == 200, job
    return job


async def ended(stack, job_id: str) -> dict[str, Any]:
    def there() -> Any:
        job = stack.http("GET", f"/train/{job_id}")[1]
        return job if job["state"] in ENDS else None

    return await eventually(there, deadline_seconds=170)


async def test_a_model_of_the_hub_is_trained_under_its_name_and_its_commit_is_told(
    stack, hub_node, mirror, model, tmp_path
):
    commit = mirror.repositories[NAME].revisions["main"]
    post(stack, request("from-the-hub", tmp_path))
    job = await ended(stack, "from-the-hub")
    assert job["state"] == "SUCCEEDED", job["message"]
    assert job["base_model_commit"] == commit
    events = stack.http("GET", "/train/from-the-hub/events")[1]["events"]
    phases = [event["phase"] for event in events if event["type"] == "job.phase_changed"]
    assert phases[0] == "FETCHING_MODEL"
    fetching = next(event for event in events if event["phase"] == "FETCHING_MODEL")
    assert (fetching["state"], NAME in fetching["message"]) == ("STARTING", True)
    assert job["message"] == ""
    out = tmp_path / "out"
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == NAME
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, str(model), str(out)],
        capture_output=True, check=True, text=True, timeout=120,
    )  # fmt: skip
    assert json.loads(loaded.stdout) == {"moved": True, "rank": 4}
    holding = [p for p in stack.directory.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert holding == []


@pytest.mark.parametrize(
    ("job_id", "base_model", "reason", "says"),
    [
        ("wrong-token", {"auth_token": "hf_wrong"}, "HUB_UNAUTHORIZED", "base_model.auth_token: "),
        ("no-revision", {"revision": "v9"}, "MODEL_NOT_FOUND", "base_model.revision: "),
        ("no-model", {"model_name": "no/such"}, "MODEL_NOT_FOUND", "base_model.model_name: "),
        (
            "consolidated",
            {"model_name": "meta-llama/consolidated"},
            "MODEL_FORMAT_UNSUPPORTED",
            "use meta-llama/consolidated-hf",
        ),
    ],
)
async def test_what_cannot_be_had_fails_in_words_before_a_device_is_charged(
    stack, hub_node, tmp_path, job_id, base_model, reason, says
):
    spec = request(job_id, tmp_path)
    spec["base_model"] |= base_model
    post(stack, spec)
    job = await ended(stack, job_id)
    assert (job["state"], job["reason"], job["attempts"]) == ("FAILED", reason, [])
    assert says in job["message"]
    assert "hf_" not in json.dumps(job)
    events = stack.http("GET", f"/train/{job_id}/events")[1]["events"]
    assert [event["type"] for event in events] == ["job.queued", "job.failed"]
    assert not (tmp_path / "out").exists()


async def test_a_job_whose_hub_is_down_waits_and_is_not_failed_for_it(stack, hub_node, mirror, tmp_path):
    mirror.faults.statuses = [503] * 6
    post(stack, request("hub-down-for-a-while", tmp_path))

    def fetched() -> Any:
        job = stack.http("GET", "/train/hub-down-for-a-while")[1]
        assert job["state"] not in ENDS, job["message"]
        return job["base_model_commit"]

    await eventually(fetched, deadline_seconds=120)
    assert mirror.faults.statuses == []
    assert stack.http("POST", "/train/hub-down-for-a-while:cancel", b"{}")[0] == 200
    assert (await ended(stack, "hub-down-for-a-while"))["state"] == "CANCELLED"
