"""Where the adapter goes: blocks by number or path, in models that call them differently."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with
from tests.support.tiny_models import ARCHITECTURES, write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

#: Architecture -> (its attention's projections, the path of its blocks).
PARTS = {
    "llama": (["q_proj", "v_proj"], "model.layers"),
    "gpt2": (["c_attn"], "transformer.h"),
    "qwen2": (["q_proj", "v_proj"], "model.layers"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("architectures")
    return {name: write_tiny_model(directory / name, architecture=name) for name in ARCHITECTURES}


@pytest.fixture(params=sorted(ARCHITECTURES))
def trained_on(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> Any:
    """Trains one step with a customization; the attempt and its architecture's parts."""
    targets, path = PARTS[request.param]

    def train(**customization: Any) -> Attempt:
        attempt = Attempt(tmp_path, models[request.param])
        attempt.assign(customization={"target_modules": targets, **customization}, tuning_parameters={"max_steps": 1})
        return attempt

    train.targets, train.path = targets, path
    return train


def adapted_modules(attempt: Attempt) -> set[str]:
    from safetensors.torch import load_file

    weights = load_file(attempt.output / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in weights}


def moved_modules(attempt: Attempt) -> set[str]:
    """What a plain PeftModel changes in the base model's own weights."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(attempt.model)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, attempt.output).merge_and_unload().state_dict()
    return {name.removesuffix(".weight") for name, tensor in merged.items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("layer", ["layers.1", "decoder.layers.1", "{path}.1", "{last}.1"])
def test_a_block_is_found_by_number_and_by_path_in_every_architecture(trained_on: Any, layer: str):
    attempt = trained_on(trainable_layers=[layer.format(path=trained_on.path, last=trained_on.path.rpartition(".")[2])])
    assert attempt.run() == 0, attempt.reports[-1]
    found = adapted_modules(attempt)
    assert all(name.startswith(f"{trained_on.path}.1.") for name in found)
    assert {name.rpartition(".")[2] for name in found} == set(trained_on.targets)
    assert moved_modules(attempt) == found


def test_several_blocks_and_all_linear(trained_on: Any):
    attempt = trained_on(trainable_layers=["layers.0", "layers.2"], target_modules=["all-linear"])
    assert attempt.run() == 0, attempt.reports[-1]
    found = adapted_modules(attempt)
    assert {name.removeprefix(f"{trained_on.path}.").partition(".")[0] for name in found} == {"0", "2"}
    assert len({name.rpartition(".")[2] for name in found}) >= 3
    assert set(json.loads((attempt.output / "adapter_config.json").read_text())["target_modules"]) == found


def test_a_block_that_is_not_there_names_those_that_are(trained_on: Any):
    attempt = trained_on(trainable_layers=["layers.0", "decoder.layers.3"])
    reason, message = failed_with(attempt)
    assert reason == "LAYERS_NOT_FOUND"
    assert message.startswith("customization.trainable_layers: decoder.layers.3 is no part of this model")
    assert f"layers.0 to layers.2 ({trained_on.path})" in message
    assert not attempt.said("progress")


def test_a_path_that_is_not_there_names_what_is(trained_on: Any):
    reason, message = failed_with(trained_on(trainable_layers=["encoder.block.0"]))
    assert reason == "LAYERS_NOT_FOUND"
    assert f"modules are named by their path below {trained_on.path.partition('.')[0]}, lm_head" in message


def test_targets_outside_the_chosen_layers_are_told_with_what_is_inside(trained_on: Any):
    attempt = trained_on(trainable_layers=["layers.0"], target_modules=["lm_head"])
    reason, message = failed_with(attempt)
    assert reason == "TARGET_MODULES_NOT_FOUND"
    assert "lm_head matches no module within customization.trainable_layers, which have " in message
    assert trained_on.targets[0] in message


def test_peft_s_own_numbers_of_blocks_mean_the_same(trained_on: Any):
    attempt = trained_on(peft={"config": {"layers_to_transform": [0, 2]}})
    assert attempt.run() == 0, attempt.reports[-1]
    numbers = {name.removeprefix(f"{trained_on.path}.").partition(".")[0] for name in adapted_modules(attempt)}
    assert numbers == {"0", "2"}
