"""Everything that a job can be asked for beside its adapter, through the whole platform: from POST to the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.hub import Account, HubMirror
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "hf_reads-and-writes"
LOAD = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
base, out = sys.argv[1:]
ids = AutoTokenizer.from_pretrained(out + "/merged")("What is 7 and 7?", return_tensors="pt").input_ids
def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits
merged = logits(AutoModelForCausalLM.from_pretrained(out + "/merged"))
gguf = logits(AutoModelForCausalLM.from_pretrained(
    out + "/gguf", gguf_file="model-f32.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)))
adapted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out))
print(json.dumps({"merged": (merged - adapted).abs().max().item(), "gguf": (gguf - adapted).abs().max().item()}))
"""


@pytest.fixture(scope="module")
def mirror() -> Iterator[HubMirror]:
    with HubMirror().running() as running:
        running.accounts[TOKEN] = Account("owner")
        yield running


async def test_a_job_ends_with_its_model_merged_as_gguf_and_on_the_hub(
    stack, tmp_path: Path, mirror: HubMirror
) -> None:
    model = write_tiny_model(tmp_path / "model")
    mirror.serve("owner/base", model, token=TOKEN)
    stack.join("with-a-hub", "--hub-endpoint", mirror.url, "--cpus", "8", "--memory-gb", "8")
    rows = [{"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(32)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    body = {
        "job_id": "exports",
        "base_model": {"model_name": "owner/base", "auth_token": TOKEN},
        "customization": {"method": "lora", "rank": 4, "precision": "fp32"},
        "resources": {"cpus": 1},
        "datasets": [{"source": f"file://{tmp_path}/train.jsonl"}],
        "artifacts": {"output_uri": f"file://{tmp_path}/out/", "log_uri": f"file://{tmp_path}/logs/"},
        "tuning_parameters": {"learning_rate": 0.01, "num_epochs": 2, "eval_fraction": 0.2},
        "export": {"merged": True, "gguf": True, "push_to_hub": "owner/result"},
        "placement": {"node": "with-a-hub"},
    }
    status, answer = stack.http("POST", "/train", json.dumps(body).encode())
    assert status == 200, answer

    def over():
        found = stack.http("GET", "/train/exports")[1]
        return found if found["state"] in {"SUCCEEDED", "FAILED"} else None

    job = await eventually(over, deadline_seconds=150)
    assert job["state"] == "SUCCEEDED", (job["reason"], job["message"])
    assert job["progress"]["eval_loss"] < job["progress"]["eval_loss_before"]

    artifacts = {each["path"] for each in stack.http("GET", "/train/exports/artifacts")[1]["artifacts"]}
    wanted = {"adapter_model.safetensors", "merged/model.safetensors", "merged/tokenizer.json", "gguf/model-f32.gguf"}
    assert wanted < artifacts
    curves = "tensorboard/events.out.tfevents.000001"
    assert curves in artifacts
    assert (tmp_path / "logs" / curves).read_bytes() == (tmp_path / "out" / curves).read_bytes()

    result = mirror.repositories["owner/result"]
    pushed = {file.name: file.data for file in result.commits[result.revisions["main"]]}
    assert set(pushed) == artifacts
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in pushed.items())

    events = stack.http("GET", "/train/exports/events")[1]["events"]
    told = [(each["type"], each["phase"], each["message"]) for each in events]
    assert ("job.phase_changed", "MERGING", "") in told
    commit = f"pushed to owner/result on the hub: commit {result.revisions['main']}"
    assert told.index(("job.phase_changed", "UPLOADING", commit)) == len(told) - 2
    assert events[-1]["type"] == "job.succeeded"
    assert "eval_loss" in events[-1]["progress"]
    assert not [each for each in events if each["type"] == "job.warning"]

    ran = subprocess.run(
        [sys.executable, "-c", LOAD, str(model), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    off = json.loads(ran.stdout.splitlines()[-1])
    assert max(off.values()) < 1e-4


async def test_a_gguf_that_cannot_be_is_refused_before_a_device_is_charged(
    stack, tmp_path: Path, mirror: HubMirror
) -> None:
    model = write_tiny_model(tmp_path / "gpt2", architecture="gpt2")
    stack.join("no-hub", "--cpus", "8", "--memory-gb", "8")
    (tmp_path / "train.jsonl").write_text('{"text": "a row"}\n')
    body = {
        "job_id": "no-gguf",
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "precision": "fp32"},
        "datasets": [{"source": f"file://{tmp_path}/train.jsonl"}],
        "artifacts": {"output_uri": f"file://{tmp_path}/out/"},
        "export": {"gguf": True},
        "placement": {"node": "no-hub"},
    }
    status, answer = stack.http("POST", "/train", json.dumps(body).encode())
    assert status == 200, answer

    def over():
        found = stack.http("GET", "/train/no-gguf")[1]
        return found if found["state"] in {"SUCCEEDED", "FAILED"} else None

    job = await eventually(over, deadline_seconds=60)
    assert (job["state"], job["reason"], job["attempt"]) == ("FAILED", "CONFIG_INVALID", 0)
    assert job["message"].startswith(
        "export.gguf: only Llama's architecture is written as GGUF, and this model is gpt2"
    )
