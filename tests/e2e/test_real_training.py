"""Real training behind the real API: a POST through Envoy ends in an adapter that plain PEFT loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

LOAD = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])
adapters = {name: value for name, value in model.named_parameters() if "lora_" in name}
print(json.dumps({
    "modules": sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapters}),
    "moved": all(bool(value.abs().sum()) for name, value in adapters.items() if "lora_B" in name),
    "rank": model.peft_config["default"].r,
}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def request(job_id: str, model: Path, folder: Path, **tuning) -> dict:
    rows = [{"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(64)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "job_id": job_id,
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 4, "target_modules": ["q_proj", "v_proj"], "precision": "fp32"},
        "resources": {"cpus": 1, "memory_gb": 2},
        "datasets": [{"source": f"file://{folder}/train.jsonl"}],
        "artifacts": {"output_uri": f"file://{folder}/out/", "log_uri": f"file://{folder}/logs/"},
        "tuning_parameters": {"learning_rate": 0.01, "batch_size": 8, **tuning},
    }


async def until(stack, job_id, *states):
    def there():
        job = stack.http("GET", f"/train/{job_id}")[1]
        if job["state"] in {"SUCCEEDED", "FAILED", "CANCELLED"} and job["state"] not in states:
            pytest.fail(f"{job['state']}: {job['reason']} {job['message']}")
        return job if job["state"] in states else None

    return await eventually(there, deadline_seconds=120)


async def test_a_post_trains_a_model_that_plain_peft_loads_though_its_agent_is_killed_in_the_middle(
    stack, node, model, tmp_path
):
    status, job = stack.http("POST", "/train", json.dumps(request("real", model, tmp_path, num_epochs=60)).encode())
    assert status == 200, job
    running = await eventually(
        lambda: (j := stack.http("GET", "/train/real")[1]).get("progress", {}).get("step", 0) > 5 and j,
        deadline_seconds=90,
    )
    assert running["state"] == "RUNNING"
    process = stack.directory / node / "attempts" / f"{job['uid']}.1" / "process.json"
    pid = json.loads(process.read_text())["pid"]
    stack.agents[node].kill()
    stack.join(node, "--gpus", "2xL4", "--cpus", "8", "--memory-gb", "16")
    assert json.loads(process.read_text())["pid"] == pid

    done = await until(stack, "real", "SUCCEEDED")
    assert [attempt["number"] for attempt in done["attempts"]] == [1]
    assert done["progress"]["step"] == done["progress"]["total_steps"] == 480
    events = stack.http("GET", "/train/real/events")[1]["events"]
    losses = [event["progress"]["loss"] for event in events if event["type"] == "job.progress"]
    assert losses[-1] < 0.8 * losses[0]
    series = {each["name"]: each for each in stack.http("GET", "/train/real/metrics")[1]["series"]}
    assert sorted(series) == ["grad_norm", "learning_rate", "loss", "tokens_per_second"]
    for each in series.values():
        assert each["steps"] == list(range(1, 481)), each["name"]  # though its agent was killed in between
    assert abs(series["loss"]["values"][-1] - losses[-1]) < 1e-3

    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, str(model), str(tmp_path / "out")],
        capture_output=True, check=True, text=True, timeout=120,
    )  # fmt: skip
    assert json.loads(loaded.stdout) == {"modules": ["q_proj", "v_proj"], "moved": True, "rank": 4}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model)
    assert {"README.md", "provenance.json", "manifest.json", "adapter_model.safetensors"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert (tmp_path / "logs" / "attempt-1" / "rank-0" / "000001.log").exists()
    audit = (tmp_path / "logs" / "attempt-1" / "audit.json").read_bytes()
    assert audit == (tmp_path / "out" / "audit.json").read_bytes()


async def test_the_audit_of_a_job_that_fails_is_with_its_logs(stack, node, model, tmp_path):
    wanted = request("refused", model, tmp_path)
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": 1}\n{"text": 2}\n')
    stack.http("POST", "/train", json.dumps(wanted).encode())
    job = await until(stack, "refused", "FAILED")
    assert job["reason"] == "DATASET_INVALID"
    audit = await eventually(lambda: [*tmp_path.glob("logs/attempt-1/audit.json")])
    found = json.loads(audit[0].read_text())
    assert found["failure"] == {"reason": "DATASET_INVALID", "message": job["message"]}
    assert [each["row"].partition(" of ")[0] for each in found["broken"]["rows"]] == [
        "datasets[0].source: row 2",
        "datasets[0].source: row 3",
    ]


@pytest.mark.parametrize(
    ("change", "reason", "names"),
    [
        (
            {"base_model": {"provider": "local", "model_name": "/nonexistent/model"}},
            "MODEL_NOT_FOUND",
            "/nonexistent/model",
        ),
        ({"datasets": [{"source": "file:///nonexistent/rows.jsonl"}]}, "DATASET_INVALID", "datasets[0].source"),
    ],
)
async def test_what_is_not_there_fails_in_words_that_name_it(stack, node, model, tmp_path, change, reason, names):
    job_id = f"missing-{reason.lower().replace('_', '-')}"
    stack.http("POST", "/train", json.dumps(request(job_id, model, tmp_path) | change).encode())
    job = await until(stack, job_id, "FAILED")
    assert job["reason"] == reason
    assert names in job["message"]
    assert job["attempt"] == 1
    assert not (tmp_path / "out").exists()


async def test_a_job_whose_trainer_is_killed_goes_on_from_its_checkpoint(stack, node, model, tmp_path):
    wanted = request("goes-on", model, tmp_path, num_epochs=60, checkpoint_steps=20)
    wanted["customization"]["lora_dropout"] = 0.1
    status, job = stack.http("POST", "/train", json.dumps(wanted).encode())
    assert status == 200, job
    attempt = stack.directory / node / "attempts" / f"{job['uid']}.1"
    await eventually(
        lambda: (attempt / "checkpoints").exists() and any(attempt.glob("checkpoints/0*")), deadline_seconds=90
    )
    os.kill(json.loads((attempt / "process.json").read_text())["pid"], signal.SIGKILL)
    done = await until(stack, "goes-on", "SUCCEEDED")
    assert [each["reason"] for each in done["attempts"]] == ["TRAINER_CRASHED", ""]
    training = json.loads((tmp_path / "out" / "provenance.json").read_text())["training"]
    assert training["steps"] == 480
    assert training["resumed_from"] >= 20
    assert training["resumed_from"] % 20 == 0
    events = stack.http("GET", "/train/goes-on/events")[1]["events"]
    said = [
        event["message"] for event in events if event["type"] == "job.phase_changed" and event["phase"] == "TRAINING"
    ]
    assert said[-1] == f"goes on from the checkpoint of step {training['resumed_from']}"
    assert "job.recovering" in [event["type"] for event in events]
