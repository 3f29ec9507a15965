"""What a training writes to its node's disk, as it is reckoned before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.backends.test_sharded_estimate import CONFIG, TENSORS
from trainplane.backends.model_shape import ModelShape
from trainplane.backends.peft import PEFT

if TYPE_CHECKING:
    from trainplane.backends.disk import Written

SEEN = {"model": {"config": CONFIG, "tensors": TENSORS, "bytes": 1.0, "here": True}}
NUMBERS = ModelShape.of(CONFIG, TENSORS).parameters


def spec(method: str = "full", *, tuning: dict[str, Any] | None = None, **export: Any) -> dict[str, Any]:
    adapter = {"rank": 16, "target_modules": ["q_proj"]} if method == "lora" else {}
    return {
        "customization": {"method": method, "precision": "bf16", "peft": {"config": {}}, **adapter},
        "datasets": [],
        "resources": {"gpus": 8},
        "tuning_parameters": {"max_sequence_length": 512, **(tuning or {})},
        "export": export,
    }


def written(*args: Any, **more: Any) -> Written:
    found = PEFT.least_disk(spec(*args, **more), SEEN)
    assert found is not None
    return found


def test_a_whole_model_is_written_in_its_precision_and_kept_twice_with_its_averages() -> None:
    found = written()
    assert (found.output, found.merged, found.scratch) == (2 * NUMBERS, 0, 0)
    assert found.checkpoints == 2 * 3 * 4 * NUMBERS
    assert written(gguf=True, gguf_type="q8_0").gguf == pytest.approx(34 / 32 * NUMBERS)
    assert written(gguf=True).scratch == 0


@pytest.mark.parametrize(
    ("tuning", "kept"),
    [
        ({"checkpoint_limit": 1}, 1),
        ({"checkpoint_limit": 9}, 2),
        ({"checkpoint_limit": 9, "checkpoint_steps": 10, "max_steps": 51}, 5),
        ({"checkpoint_limit": 9, "checkpoint_steps": 10, "max_steps": 50}, 4),
        ({"checkpoint_steps": 10, "max_steps": 51}, 2),
        ({"checkpoint_steps": 10, "max_steps": 10}, 0),
    ],
)
def test_no_more_checkpoints_are_counted_than_are_there_at_a_time(tuning: dict[str, Any], kept: int) -> None:
    assert written(tuning=tuning).checkpoints == kept * 3 * 4 * NUMBERS


def test_beside_an_adapter_only_what_is_merged_is_of_the_models_size() -> None:
    alone = written("lora")
    assert alone.total == alone.output + alone.checkpoints < NUMBERS / 100
    both = written("lora", merged=True, gguf=True)
    assert (both.merged, both.gguf, both.scratch) == (2 * NUMBERS, 2 * NUMBERS, 2 * NUMBERS)
    only = written("lora", gguf=True)
    assert (only.merged, only.gguf, only.scratch) == (0, 2 * NUMBERS, 4 * NUMBERS)


def test_of_a_model_that_is_not_understood_nothing_is_said() -> None:
    assert PEFT.least_disk(spec(), {}) is None
    strange = {"model": {"config": {}, "tensors": [["odd", [4], 1]], "bytes": 1.0, "here": True}}
    assert PEFT.least_disk(spec(), strange) is None
