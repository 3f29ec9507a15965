"""When a model is sharded over a job's devices."""

from __future__ import annotations

from typing import Any

import pytest

from trainplane.backends.peft_methods import METHODS
from trainplane.backends.sharding import CHOICES, problem, shards

GIB = float(2**30)
LORA = {"method": "lora", "precision": "bf16"}
REFUSED: list[dict[str, Any]] = [
    {"method": "full", "precision": "fp16"},
    {"method": "lora", "precision": "bf16", "peft": {"config": {"init_lora_weights": "eva"}}},
]


def decide(asked: str = "auto", customization: dict[str, Any] | None = None, **changes: Any) -> bool:
    of: dict[str, Any] = {"devices": 2, "kept": 100 * GIB, "device_bytes": 80 * GIB, **changes}
    return shards(asked, customization or LORA, **of)


def test_by_itself_only_what_does_not_fit_one_device_is_sharded():
    assert decide()
    assert decide(kept=65 * GIB)
    assert not decide(kept=63 * GIB)
    assert not decide(devices=1)
    assert not decide(device_bytes=0)


def test_who_asks_is_obeyed():
    assert decide("full", kept=1.0)
    assert decide("full", device_bytes=0)
    assert not decide("none")
    assert not decide("full", devices=1)


@pytest.mark.parametrize("customization", REFUSED)
def test_what_cannot_be_sharded_never_is_and_says_why(customization: dict[str, Any]):
    assert "leave it out" in problem(customization)
    assert not any(decide(asked, customization) for asked in CHOICES)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be(method: str):
    assert problem({"method": method, "precision": "bf16"}) == ""
