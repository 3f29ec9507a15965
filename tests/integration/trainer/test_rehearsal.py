"""What is wrong with a job's names is told by the model's shapes: before a row is tokenized or a weight is loaded."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from agent.trainer.assignment import parse
from agent.trainer.model_files import inspect_model
from agent.trainer.rehearsal import rehearse
from agent.trainer.reports import Reports
from tests.integration.trainer.attempts import Attempt, failed_with
from tests.support.tiny_models import ARCHITECTURES, write_tiny_model
from trainplane.backends.peft_methods import METHODS

if TYPE_CHECKING:
    from pathlib import Path

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "target": ({"target_modules": ["q_proj", "w_pack"]}, "TARGET_MODULES_NOT_FOUND", "w_pack matches no module"),
    "layer": ({"trainable_layers": ["layers.9"]}, "LAYERS_NOT_FOUND", "layers.9 is no part of this model"),
    "target of qlora": (
        {"method": "qlora", "target_modules": ["w_pack"]},
        "TARGET_MODULES_NOT_FOUND",
        "this model has down_proj, ",
    ),
    "layer of full": (
        {"method": "full", "rank": None, "lora_alpha": None, "target_modules": None, "peft": {"use": False}}
        | {"trainable_layers": ["layers.9"]},
        "LAYERS_NOT_FOUND",
        "layers.0 to layers.2",
    ),
    "rank pattern": ({"peft": {"config": {"rank_pattern": {"w_pack": 2}}}}, "CONFIG_INVALID", "w_pack matches no"),
    "module to save": ({"peft": {"config": {"modules_to_save": ["w_pack"]}}}, "CONFIG_INVALID", "w_pack is no module"),
}
#: PEFT's own layers for these two stand in for torch's linear layers only, and GPT-2 has another kind.
UNSUPPORTED = [("gpt2", "oft"), ("gpt2", "boft")]
CASES = [(name, method) for name in ARCHITECTURES for method in METHODS if (name, method) not in UNSUPPORTED]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("architectures")
    return {name: write_tiny_model(directory / name, architecture=name) for name in ARCHITECTURES}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_name_is_told_though_there_is_neither_tokenizer_nor_weight(
    models: dict[str, Path], tmp_path: Path, wrong: str
):
    import torch
    from safetensors.torch import save_file

    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(models["qwen2"] / "config.json", bare)
    save_file({f"not.its.{number}": torch.zeros(1) for number in range(50)}, bare / "model.safetensors")
    customization, reason, words = WRONG[wrong]
    attempt = Attempt(tmp_path, bare)
    attempt.assign(customization=customization)
    found = failed_with(attempt)
    assert found[0] == reason, found
    assert words in found[1]
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(("architecture", "method"), CASES)
def test_what_can_be_trained_passes(models: dict[str, Path], tmp_path: Path, architecture: str, method: str):
    peft: dict[str, Any] = {"peft": {"use": False}} if method == "full" else {}
    document = {
        "uid": "01JTEST",
        "job_id": "demo",
        "project": "default",
        "attempt": 1,
        "devices": [],
        "spec": {
            "base_model": {"provider": "local", "model_name": str(models[architecture])},
            "customization": {"method": method, "precision": "fp32", **peft},
            "datasets": [{"source": "file:///rows.jsonl"}],
        },
    }
    rehearse(parse(document), inspect_model(str(models[architecture])), Reports(tmp_path))


@pytest.mark.parametrize("beginning", ["pissa", "olora", "eva", "orthogonal", "gaussian"])
def test_no_beginning_is_computed(models: dict[str, Path], tmp_path: Path, beginning: str):
    attempt = Attempt(tmp_path, models["llama"])
    attempt.assign(
        customization={"peft": {"config": {"init_lora_weights": beginning}}}, tuning_parameters={"max_steps": 1}
    )
    assert attempt.run() == 0, attempt.reports[-1]


@pytest.mark.parametrize(
    ("architecture", "beginning", "target", "words"),
    [
        ("llama", "pissa", "embed_tokens", "model.embed_tokens, which is an embedding"),
        ("gpt2", "olora", "wte", "transformer.wte, which is an embedding"),
        ("gpt2", "olora", "c_attn", "transformer.h.0.attn.c_attn, which lies transposed"),
        ("llama", "eva", "lm_head", "lm_head, which is the head"),
    ],
)
def test_a_layer_that_cannot_begin_so_is_refused(
    models: dict[str, Path], tmp_path: Path, architecture: str, beginning: str, target: str, words: str
):
    attempt = Attempt(tmp_path, models[architecture])
    config = {"init_lora_weights": beginning}
    attempt.assign(customization={"rank": 2, "target_modules": [target], "peft": {"config": config}})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith(f"customization.peft.config.init_lora_weights: `{beginning}` does not go with {words}")
    assert not attempt.said("progress")
