"""Mixtures of experts: what a method can do with the experts it does, and what it cannot is refused or told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with
from tests.support.tiny_models import MIXTURE, write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXPERTS = "model.layers.{}.mlp.experts.{}"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / MIXTURE, architecture=MIXTURE)


@pytest.fixture
def assigned(mixture: Path, tmp_path: Path) -> Callable[..., Attempt]:
    """An attempt of two steps with a customization."""

    def assign(model: Path = mixture, export: dict[str, Any] | None = None, **customization: Any) -> Attempt:
        attempt = Attempt(tmp_path, model)
        block = {"target_modules": ["all-linear"], **customization}
        attempt.assign(customization=block, tuning_parameters={"max_steps": 2}, export=export or {})
        return attempt

    return assign


def without(*fields: str, **customization: Any) -> dict[str, Any]:
    return {**dict.fromkeys(fields), **customization}


# PEFT looks among modules only for what it gave the pattern to: it does obey it.
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
def test_lora_adapts_the_experts_and_they_are_merged(assigned: Callable[..., Attempt], mixture: Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    attempt = assigned(export={"merged": True})
    assert attempt.run() == 0, attempt.reports[-1]
    assert attempt.said("warning") == []
    before = AutoModelForCausalLM.from_pretrained(mixture).state_dict()
    after = AutoModelForCausalLM.from_pretrained(attempt.output / "merged").state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved >= {EXPERTS.format(number, name) for number in range(3) for name in ("gate_up_proj", "down_proj")}
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mixture), attempt.output)
    read = adapter.merge_and_unload().state_dict()
    assert all(torch.allclose(read[name], after[name], atol=1e-5) for name in moved)


@pytest.mark.parametrize(
    ("customization", "reasons"),
    [
        ({"trainable_layers": ["layers.1"]}, ["EXPERTS_NOT_ADAPTED"]),
        (without("rank", "lora_alpha", method="ia3"), ["EXPERTS_NOT_ADAPTED"]),
        (without("rank", "lora_alpha", method="oft"), ["EXPERTS_NOT_ADAPTED"]),
        ({"method": "qlora"}, ["EXPERTS_NOT_QUANTIZED"]),
        ({"target_modules": ["q_proj", "v_proj"]}, []),
        (without("rank", "lora_alpha", "target_modules", method="full", peft={"use": False}), []),
    ],
    ids=["lora in a layer", "ia3", "oft", "qlora", "lora of named modules", "full"],
)
def test_experts_that_a_method_leaves_out_are_told(
    assigned: Callable[..., Attempt], customization: dict[str, Any], reasons: list[str]
):
    attempt = assigned(**customization)
    assert attempt.run() == 0, attempt.reports[-1]
    told = attempt.said("warning")
    assert [warning["reason"] for warning in told] == reasons
    assert all(EXPERTS.format(1, "down_proj") in warning["message"] for warning in told)
    assert all("% of its parameters" in warning["message"] for warning in told)


@pytest.mark.parametrize(
    ("customization", "field"),
    [
        ({"peft": {"config": {"init_lora_weights": "pissa"}}}, "customization.peft.config.init_lora_weights: pissa"),
        ({"peft": {"config": {"init_lora_weights": "eva"}}}, "customization.peft.config.init_lora_weights: eva"),
        ({"lora_dropout": 0.1}, "customization.peft.config: PEFT refuses it"),
        ({"method": "dora"}, "customization.peft.config: PEFT refuses it"),
    ],
)
def test_what_cannot_be_done_to_experts_is_refused_with_a_remedy(
    assigned: Callable[..., Attempt], customization: dict[str, Any], field: str
):
    reason, message = failed_with(assigned(**customization))
    assert reason == "CONFIG_INVALID"
    assert message.startswith(field)
    assert "target_modules, without all-linear" in message
    assert assigned(**{**customization, "target_modules": ["q_proj"]}).run() == 0


def shared(directory: Path) -> Path:
    """A DeepSeek: besides its experts, layers of the names that experts had in older models."""
    from transformers import AutoModelForCausalLM, DeepseekV3Config

    from tests.support.tiny_models import write_tokenizer

    write_tokenizer(directory)
    config = DeepseekV3Config(
        **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_routed_experts"), 4),
        **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
        **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "moe_intermediate_size"), 16),
        **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_experts_per_tok=2,
        vocab_size=400,
        max_position_embeddings=256,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def test_layers_whose_names_are_taken_for_those_of_experts_are_told(assigned: Callable[..., Attempt], tmp_path: Path):
    attempt = assigned(shared(tmp_path / "shared"))
    assert attempt.run() == 0, attempt.reports[-1]
    (warning,) = attempt.said("warning")
    assert warning["reason"] == "LAYERS_NOT_ADAPTED"
    assert "model.layers.0.mlp.down_proj" in warning["message"]


def test_experts_outside_the_chosen_layers_are_not_adapted_for_the_names_of_others(
    assigned: Callable[..., Attempt], tmp_path: Path
):
    reason, message = failed_with(assigned(shared(tmp_path / "shared"), trainable_layers=["layers.1"]))
    assert reason == "CONFIG_INVALID"
    assert message.startswith("customization.trainable_layers: ")
    assert EXPERTS.format(2, "down_proj") in message
