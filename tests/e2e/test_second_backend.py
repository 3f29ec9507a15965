"""The second backend through every part: judged without torch, trained in an environment of its own, published."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

from tests.support import own_environment
from tests.support.eventually import eventually
from tests.support.stack import Stack
from tests.support.tiny_models import write_tiny_model

ROWS = [{"prompt": f"What is {number}? ", "completion": f"It is {number}."} for number in range(16)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack that has the torch-free half of `bare`, and an agent that is told where the other is."""
    directory = tmp_path_factory.mktemp("second")
    python = own_environment.made(directory / "env", own_environment.BARE, extra="train")
    site = own_environment.half(python, directory / "site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        found = Stack(directory / "stack")
        try:
            found.start()
            found.join("node-1", "--gpus", "0", "--backend-python", f"bare={python}")
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def request(job_id, model, place, **changes):
    rows = place / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {
        "job_id": job_id,
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 4, "target_modules": ["q_proj", "v_proj"], "precision": "fp32"},
        "datasets": [{"source": rows.as_uri()}],
        "tuning_parameters": {"batch_size": 4, "learning_rate": 0.01, "num_epochs": 2, "max_sequence_length": 64},
        "artifacts": {"output_uri": f"{(place / 'out').as_uri()}/"},
    } | changes


def sent(stack, body):
    return stack.http("POST", "/backends/bare/train", json.dumps(body).encode())


async def test_a_job_at_its_address_becomes_an_adapter_in_its_storage(stack, model, tmp_path):
    status, job = sent(stack, request("second-1", model, tmp_path))
    assert status == 200, job
    assert job["effective_spec"]["backend"] == "bare"

    def ended():
        return stack.http("GET", "/train/second-1")[1]["state"] in ("SUCCEEDED", "FAILED")

    await eventually(ended, deadline_seconds=60)
    job = stack.http("GET", "/train/second-1")[1]
    assert job["state"] == "SUCCEEDED", job

    # That PEFT opens such an adapter to the same logits: tests/integration/backends.
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_bytes())
    assert (config["peft_type"], config["r"], config["base_model_name_or_path"]) == ("LORA", 4, str(model))
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", framework="np") as weights:
        learnt = {name for name in weights.keys() if ".lora_B." in name and np.abs(weights.get_tensor(name)).max() > 0}  # noqa: SIM118
    assert learnt == {f"base_model.model.{path}.lora_B.weight" for path in config["target_modules"]}
    assert len(learnt) == 4

    facts = json.loads((tmp_path / "out" / "provenance.json").read_bytes())
    assert facts["backend"] == "bare"
    assert facts["losses"][-1] < facts["losses"][0]
    (loss,) = [each for each in stack.http("GET", "/train/second-1/metrics")[1]["series"] if each["name"] == "loss"]
    assert loss["steps"] == list(range(1, 9))
    assert loss["values"] == pytest.approx(facts["losses"], abs=1e-5)


async def test_cancelled_it_is_gone_before_the_job_says_so(stack, model, tmp_path):
    body = request("second-2", model, tmp_path)
    body["tuning_parameters"]["max_steps"] = 1_000_000
    assert sent(stack, body)[0] == 200

    def state():
        return stack.http("GET", "/train/second-2")[1]

    await eventually(lambda: state().get("progress", {}).get("step"), deadline_seconds=60)
    assert stack.http("POST", "/train/second-2:cancel", b"{}")[0] == 200
    await eventually(lambda: state()["state"] == "CANCELLED")
    assert trainers(stack) == []
    assert not (tmp_path / "out").exists()


def trainers(stack):
    """Command lines of the processes that train in this stack."""
    import psutil

    lines = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "trainplane_bare" in line and any(str(stack.directory) in part for part in line)]


def test_what_it_would_not_obey_is_refused_when_it_is_sent(stack, model, tmp_path):
    body = request("second-3", model, tmp_path, backend_options={"micro_batch_size": 0})
    body["customization"]["method"] = "ia3"
    del body["customization"]["rank"]
    body["tuning_parameters"]["packing"] = True
    body["resources"] = {"gpus": 2}
    status, answer = sent(stack, body)
    assert status == 400
    found = {
        violation["field"]: violation
        for detail in answer["details"]
        if detail["@type"].endswith("BadRequest")
        for violation in detail["field_violations"]
    }
    assert found["backend_options.micro_batch_size"]["reason"] == "OUT_OF_RANGE"
    for field in ("customization.method", "resources.gpus", "tuning_parameters.packing"):
        assert found[field]["reason"] == "NOT_SUPPORTED"
        assert "backend peft" in found[field]["description"]


def test_it_is_listed_with_its_options(stack):
    listed = {each["name"]: each for each in stack.http("GET", "/backends")[1]["backends"]}
    options = listed["bare"]["schema"]["properties"]["backend_options"]["anyOf"][0]["properties"]
    assert options["micro_batch_size"]["maximum"] == 65536
