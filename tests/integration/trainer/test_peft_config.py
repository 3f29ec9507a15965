"""PEFT's own fields: each is obeyed, and the output still loads with plain PEFT."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from agent.trainer import peft_table
from tests.integration.trainer.attempts import Attempt, failed_with
from tests.integration.trainer.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_the_committed_table_is_that_of_the_peft_that_is_installed():
    assert (ROOT / "trainplane" / "backends" / "peft_fields.py").read_text() == peft_table.render(), "make gen"


def test_the_table_is_read_without_peft():
    program = (
        "import sys, trainplane.backends.peft_fields as f; sys.exit('peft' in sys.modules or 'use_dora' not in f.LORA)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def trained(attempt: Attempt, config: dict[str, Any], **customization: Any) -> dict[str, Any]:
    """Train with these fields; the adapter's weights by short names."""
    from safetensors.torch import load_file

    attempt.assign(
        customization={"peft": {"config": {"task_type": "CAUSAL_LM", **config}}, **customization},
        tuning_parameters={"num_epochs": 4},
    )
    assert attempt.run() == 0, attempt.reports[-1]
    weights = load_file(attempt.output / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.model."): tensor for name, tensor in weights.items()}


def saved(attempt: Attempt) -> dict[str, Any]:
    return json.loads((attempt.output / "adapter_config.json").read_text())


def losses(attempt: Attempt) -> tuple[float, float, float]:
    """Of a training sentence: the base model's, and the adapted one's as plain PEFT loads and as it merges it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(attempt.model)
    ids = AutoTokenizer.from_pretrained(attempt.model)(
        "What is 3? It is 3.<|endoftext|>", return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        before = base(ids, labels=ids).loss.item()
        tuned = PeftModel.from_pretrained(base, attempt.output).eval()
        after = tuned(ids, labels=ids).loss.item()
        merged = tuned.merge_and_unload()(ids, labels=ids).loss.item()
    return before, after, merged


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa", "use_rslora": True},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "olora", "rank_pattern": {"q_proj": 2}},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    ],
    ids=str,
)
def test_it_learns_and_loads_with_plain_peft(attempt: Attempt, config: dict[str, Any]):
    trained(attempt, config)
    before, after, merged = losses(attempt)
    assert after < 0.97 * before
    assert merged == pytest.approx(after, rel=1e-4)
    assert attempt.provenance["losses"]["last"] < 0.97 * attempt.provenance["losses"]["first"]


def test_a_bias_of_the_adapter_is_trained(attempt: Attempt):
    weights = trained(attempt, {"lora_bias": True})
    biases = [tensor for name, tensor in weights.items() if name.endswith("lora_B.bias")]
    assert len(biases) == 4
    assert all(tensor.abs().max() > 0 for tensor in biases)


def test_rslora_scales_by_the_root_of_the_rank(attempt: Attempt):
    trained(attempt, {"use_rslora": True})
    assert saved(attempt)["use_rslora"] is True


def test_dora_has_magnitudes(attempt: Attempt):
    weights = trained(attempt, {"use_dora": True})
    assert {name.rpartition(".")[2] for name in weights} == {"weight", "lora_magnitude_vector"}


def test_patterns_give_modules_ranks_of_their_own(attempt: Attempt):
    weights = trained(attempt, {"rank_pattern": {"layers.1.self_attn.v_proj": 2}, "alpha_pattern": {"q_proj": 3}})
    ranks = {name: tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name}
    assert {name for name, rank in ranks.items() if rank == 2} == {"layers.1.self_attn.v_proj.lora_A.weight"}
    assert saved(attempt)["alpha_pattern"] == {"q_proj": 3}


@pytest.mark.parametrize("config", [{"rank_pattern": {"w_proj": 2}}, {"alpha_pattern": {"proj": 2}}], ids=str)
def test_a_pattern_that_matches_nothing_is_told(attempt: Attempt, config: dict[str, Any]):
    attempt.assign(customization={"peft": {"config": config}})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    (name,) = config
    assert message.startswith(f"customization.peft.config.{name}: ")
    assert "matches no module that is adapted" in message


@pytest.mark.parametrize("beginning", ["pissa", "olora"])
def test_what_began_inside_the_base_is_published_as_plain_lora_of_twice_the_rank(attempt: Attempt, beginning: str):
    weights = trained(attempt, {"init_lora_weights": beginning})
    assert saved(attempt)["init_lora_weights"] is True
    assert (saved(attempt)["r"], saved(attempt)["lora_alpha"]) == (8, 16)
    assert {tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name} == {8}
    assert {path.name for path in attempt.directory.iterdir()} == {
        "assignment.json",
        "heartbeat",
        "output",
        "reports.jsonl",
        "rows.jsonl",
        "audit.json",
        "tensorboard",
    }


def test_modules_to_save_are_trained_whole_and_nothing_else_is(attempt: Attempt):
    import torch
    from transformers import AutoModelForCausalLM

    weights = trained(attempt, {"modules_to_save": ["lm_head"]})
    base = AutoModelForCausalLM.from_pretrained(attempt.model)
    (head,) = [tensor for name, tensor in weights.items() if "lm_head" in name]
    assert head.shape == base.lm_head.weight.shape
    assert not torch.equal(head, base.lm_head.weight)


def test_a_module_to_save_that_is_not_there_is_told(attempt: Attempt):
    attempt.assign(customization={"peft": {"config": {"modules_to_save": ["score"]}}})
    reason, message = failed_with(attempt)
    assert (reason, message.partition(":")[0]) == ("CONFIG_INVALID", "customization.peft.config.modules_to_save")


def test_the_biases_of_the_adapted_layers_move(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    import torch
    from transformers import AutoModelForCausalLM

    from tests.support.tiny_models import write_tiny_model

    attempt = Attempt(tmp_path, write_tiny_model(tmp_path_factory.mktemp("qwen"), architecture="qwen2"))
    weights = trained(attempt, {"bias": "lora_only"})
    base = AutoModelForCausalLM.from_pretrained(attempt.model).state_dict()
    biases = {name: tensor for name, tensor in weights.items() if name.endswith(".bias")}
    assert len(biases) == 3 * 2
    for name, tensor in biases.items():
        assert not torch.equal(tensor, base[f"model.{name.replace('.base_layer', '')}"])
