"""Models that would have the trainer load what is not theirs, or build what is not there."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from tests.integration.trainer.attempts import Attempt, failed_with

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "model.safetensors.index.json"


@pytest.fixture
def on_copy(attempt: Attempt, tmp_path: Path) -> Attempt:
    """An attempt whose model may be spoiled."""
    copy = tmp_path / "a-model"
    shutil.copytree(attempt.model, copy)
    spoiled = Attempt(attempt.directory, copy)
    spoiled.assign()
    return spoiled


def configure(model: Path, **changes: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def in_shards(model: Path, elsewhere: str | None = None) -> None:
    """Put the weights into a shard with an index, which may name a file elsewhere."""
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file(weights, model / shard, metadata={"format": "pt"})
    placed = dict.fromkeys(weights, elsewhere or shard)
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def test_shards_with_an_index_of_their_own_are_trained(on_copy: Attempt):
    in_shards(on_copy.model)
    assert on_copy.run() == 0


@pytest.mark.parametrize("where", ["../victim/model.safetensors", "{victim}/model.safetensors", "other.safetensors"])
def test_an_index_that_names_a_file_of_another_model_is_refused(on_copy: Attempt, tmp_path: Path, where: str):
    victim = tmp_path / "victim"
    shutil.copytree(on_copy.model, victim)
    shutil.copy(victim / "model.safetensors", on_copy.model / "other.safetensors")
    in_shards(on_copy.model, where.format(victim=victim))
    reason, message = failed_with(on_copy)
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert message.startswith(f"base_model.model_name: {INDEX} names ")
    assert not on_copy.output.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"text_config": {"_attn_implementation": "owner/kernel"}},
    ],
    ids=str,
)
def test_code_from_elsewhere_for_attention_is_refused(on_copy: Attempt, changes: dict[str, object]):
    configure(on_copy.model, **changes)
    reason, message = failed_with(on_copy)
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert "asks for code from elsewhere" in message
    assert "remove that key" in message


def test_more_layers_than_there_are_tensors_are_not_built(on_copy: Attempt):
    configure(on_copy.model, num_hidden_layers=200_000)
    reason, message = failed_with(on_copy)
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert "names 200000 layers" in message


def test_a_loss_of_the_eval_rows_that_is_not_finite_at_the_end_names_what_is_kept(attempt: Attempt):
    # One step of such a size: the step's own loss is finite, and nothing is after it.
    tuning = {"learning_rate": 1e38, "max_grad_norm": 0, "max_steps": 1, "eval_fraction": 0.25}
    attempt.assign(tuning_parameters=tuning)
    reason, message = failed_with(attempt)
    assert reason == "LOSS_NOT_FINITE"
    assert message.startswith("tuning_parameters.learning_rate: after step 1, the last, the loss of the eval rows is ")
    assert "there is no checkpoint of the steps before" in message
