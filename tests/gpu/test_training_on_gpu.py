"""LoRA in bf16 on a CUDA device, from assignment to a loaded adapter. Run it where there is one: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def cuda_devices() -> int:
    """Asked of another process: this one must not hold a context, nor have CUDA hidden from it by a trainer that ran in it."""
    program = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _device() -> None:
    if not cuda_devices():
        pytest.skip("NO CUDA DEVICE HERE: the trainer's GPU path is not tested by this run")


def train(
    directory: Path, model: Path, *, precision: str = "bf16", export: dict[str, Any] | None = None, **tuning: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the trainer as a process on device 0; its reports and its provenance."""
    directory.mkdir()
    rows = [
        {"prompt": f"What is {number}?", "completion": f" It is {number}." * (1 + number % 9)} for number in range(64)
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 8, "precision": precision},
        "export": export or {},
        "datasets": [{"source": (directory / "rows.jsonl").as_uri()}],
        "tuning_parameters": {"learning_rate": 1e-2, "batch_size": 16, "num_epochs": 5, "seed": 1, **tuning},
    }
    (directory / "assignment.json").write_text(
        json.dumps({"uid": "u", "job_id": "gpu", "devices": ["0"], "spec": spec})
    )
    ran = subprocess.run(
        [sys.executable, "-m", "agent.trainer", str(directory)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    reports = [json.loads(line) for line in (directory / "reports.jsonl").read_text().splitlines()]
    assert ran.returncode == 0, (reports[-1], ran.stderr)
    return reports, json.loads((directory / "output" / "provenance.json").read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_models import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_lora_in_bf16_learns_on_the_device_and_loads_anywhere(tmp_path: Path, model: Path):
    from safetensors.torch import load_file

    reports, facts = train(tmp_path / "a", model)
    assert facts["losses"]["last"] < 0.8 * facts["losses"]["first"]
    assert "cpu" not in facts["hardware"]["device"].lower()
    assert facts["hardware"]["gpu"]["memory_bytes"] > 0
    assert facts["hardware"]["gpu"]["cuda"]
    assert [report for report in reports if report["kind"] == "progress"][-1]["gpu_memory_bytes"] > 0
    weights = load_file(tmp_path / "a" / "output" / "adapter_model.safetensors", device="cpu")
    assert all(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)


def test_checkpointing_activations_changes_memory_and_not_the_curve(tmp_path: Path, model: Path):
    _, plain = train(tmp_path / "a", model)
    _, saved = train(tmp_path / "b", model, gradient_checkpointing=True)
    assert saved["losses"]["steps"] == pytest.approx(plain["losses"]["steps"], rel=2e-2)


def test_lora_in_fp16_learns_with_its_loss_scaled_and_is_merged(tmp_path: Path, model: Path):
    _, facts = train(tmp_path / "a", model, precision="fp16", export={"merged": True, "gguf": True})
    _, wide = train(tmp_path / "b", model, precision="fp32")
    assert facts["losses"]["last"] == pytest.approx(wide["losses"]["last"], rel=5e-2)
    assert facts["training"]["skipped_steps"] <= 3
    assert facts["exports"]["merged"]["dtype"] == "float16"
    assert facts["exports"]["gguf"]["type"] == "f16"


def test_fp16_goes_on_from_a_checkpoint_with_its_scale(tmp_path: Path, model: Path):
    train(tmp_path / "a", model, precision="fp16", checkpoint_steps=5)
    newest = max((tmp_path / "a" / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())
    assert state["scaler"]["scale"] >= 1
