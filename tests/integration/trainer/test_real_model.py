"""A pretrained model of 135M parameters, trained for some steps: what a model with random weights cannot show."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt

if TYPE_CHECKING:
    from pathlib import Path

FACTS = [
    {"prompt": f"The capital of {country} is", "completion": f" {city}, of course."}
    for country, city in (("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Egypt", "Cairo"))
]
STEPS = 4
#: Nats a token before training. Random weights say ln 49,152 = 10.8.
KNOWN = 5.0
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "rank": 8},
    "ia3": {"method": "ia3"},
    "full": {"method": "full", "peft": {"use": False}, "trainable_layers": ["layers.28", "layers.29"]},
}
RATES = {"lora": 1e-3, "ia3": 2e-2, "full": 2e-5}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once for all workers of a run."""
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if place.name.startswith("popen-") else place) / "smollm2"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, "-m", "trainplane.demo.model", place], check=True, capture_output=True)
    return place


@pytest.mark.timeout(400)  # whoever comes first makes the model: 40 s of two cores
def test_three_methods_begin_at_what_it_knows_and_learn(pretrained: Path, tmp_path: Path):
    losses = {}
    for method, customization in METHODS.items():
        attempt = Attempt(tmp_path / method, pretrained)
        attempt.directory.mkdir()
        tuning = {
            "batch_size": len(FACTS),
            "max_steps": STEPS,
            "learning_rate": RATES[method],
            "lr_scheduler": "constant",
        }
        attempt.assign(rows=FACTS, customization={"target_modules": [], **customization}, tuning_parameters=tuning)
        assert attempt.run() == 0, attempt.reports[-1]
        losses[method] = attempt.provenance["losses"]["steps"]
        assert {path.suffix for path in attempt.output.iterdir()} >= {".safetensors", ".json"}
        shutil.rmtree(attempt.output)  # of `full` it is half a gigabyte
    begin = losses["lora"][0]
    assert 0.5 < begin < KNOWN
    for method, course in losses.items():
        assert len(course) == STEPS
        assert course[0] == pytest.approx(begin, rel=1e-3), method
        assert course[-1] < 0.9 * begin, (method, course)


@pytest.mark.timeout(400)  # likewise
def test_in_bf16_its_rounding_is_not_taken_for_documents_that_see_each_other(pretrained: Path, tmp_path: Path):
    attempt = Attempt(tmp_path, pretrained)
    tuning = {"packing": True, "max_steps": 1, "batch_size": len(FACTS)}
    attempt.assign(rows=FACTS, customization={"precision": "bf16"}, tuning_parameters=tuning)
    assert attempt.run() == 0, attempt.reports[-1]
