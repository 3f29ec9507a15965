"""Merged weights: an ordinary model directory that says what the adapter on its base says, for every method that can."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with
from tests.support.tiny_models import ARCHITECTURES, write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

ATTENTION = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "qwen2": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("architectures")
    return {name: write_tiny_model(directory / name, architecture=name) for name in ARCHITECTURES}


def exported(tmp_path: Path, model: Path, customization: dict[str, Any], **export: Any) -> Attempt:
    attempt = Attempt(tmp_path, model)
    attempt.assign(export=export or {"merged": True}, tuning_parameters={"max_steps": 4, "learning_rate": 2e-2})
    path = tmp_path / "assignment.json"
    document = json.loads(path.read_text())
    document["spec"]["customization"] = {"precision": "fp32", **customization}
    path.write_text(json.dumps(document))
    assert attempt.run() == 0, attempt.reports[-1]
    return attempt


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 40)[None]).logits.float()


def loaded(directory: Path, **how: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, **how).eval()


def with_adapter(base: Any, output: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says of norms; the trainer logs it
        return PeftModel.from_pretrained(base, output).eval()


@pytest.mark.parametrize(
    ("architecture", "customization"),
    [
        *((name, {"method": "lora", "rank": 4, "target_modules": ATTENTION[name]}) for name in ARCHITECTURES),
        ("llama", {"method": "dora", "rank": 4}),
        ("gpt2", {"method": "dora", "rank": 4}),
        ("llama", {"method": "lora", "rank": 4, "peft": {"config": {"init_lora_weights": "pissa"}}}),
        ("llama", {"method": "lora", "rank": 4, "peft": {"config": {"modules_to_save": ["norm"], "bias": "none"}}}),
        ("qwen2", {"method": "adalora", "rank": 4, "peft": {"config": {"tinit": 1, "tfinal": 1}}}),
        ("llama", {"method": "ia3"}),
        ("gpt2", {"method": "ia3"}),
        ("llama", {"method": "vera", "rank": 8}),
        ("llama", {"method": "oft", "peft": {"config": {"oft_block_size": 8}}}),
        ("llama", {"method": "boft", "peft": {"config": {"boft_block_size": 8}}}),
        ("gpt2", {"method": "layernorm"}),
        ("qwen2", {"method": "layernorm"}),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value['method']}",
)
def test_the_merged_model_is_the_adapter_on_its_base(
    tmp_path: Path, models: dict[str, Path], architecture: str, customization: dict[str, Any]
):
    import torch
    from transformers import AutoTokenizer

    attempt = exported(tmp_path, models[architecture], customization)
    merged = loaded(attempt.output / "merged")
    base = loaded(models[architecture])
    untouched = logits(base)
    adapted = logits(with_adapter(base, attempt.output))
    torch.testing.assert_close(logits(merged), adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - untouched).abs().max() > 1e-3, "nothing was trained, so nothing was shown"
    assert merged.dtype == torch.float32
    assert merged.config.use_cache is True
    tokenizer = AutoTokenizer.from_pretrained(attempt.output / "merged")
    assert (
        tokenizer("What is 7?").input_ids == AutoTokenizer.from_pretrained(models[architecture])("What is 7?").input_ids
    )
    facts = attempt.provenance["exports"]["merged"]
    assert facts["logit_difference"] < 1e-4 < facts["logit_difference_limit"]
    assert facts["dtype"] == "float32"
    assert [report["phase"] for report in attempt.said("phase")][-1] == "MERGING"
    assert not list(tmp_path.glob("merging-*"))
    assert "- `merged/`: the whole model" in (attempt.output / "README.md").read_text()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("more", [{}, {"peft": {"config": {"use_dora": True}}}], ids=["lora", "dora"])
def test_qlora_is_merged_into_the_dequantized_base(
    tmp_path: Path, models: dict[str, Path], architecture: str, more: dict[str, Any]
):
    import torch
    from transformers import BitsAndBytesConfig

    from agent.trainer.quantized import pin

    targets = ["c_attn", "c_proj"] if architecture == "gpt2" else ["all-linear"]
    qlora = {"bnb_4bit_compute_dtype": "float32"}
    attempt = exported(
        tmp_path,
        models[architecture],
        {"method": "qlora", "rank": 4, "qlora": qlora, "target_modules": targets, **more},
    )
    merged = logits(loaded(attempt.output / "merged"))
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    quantized = with_adapter(pin(loaded(models[architecture], quantization_config=four_bits)), attempt.output)
    torch.testing.assert_close(merged, logits(quantized), rtol=1e-3, atol=1e-3)
    whole = logits(with_adapter(loaded(models[architecture]), attempt.output))
    assert (merged - whole).abs().max() > 0.02, "the unquantized base would have done"
    assert "quantization_config" not in json.loads((attempt.output / "merged" / "config.json").read_text())
    assert attempt.provenance["exports"]["merged"]["logit_difference"] < 1e-3


def test_qlora_that_computes_in_bf16_is_merged_in_fp32(tmp_path: Path, models: dict[str, Path]):
    attempt = exported(tmp_path, models["llama"], {"method": "qlora", "target_modules": ["all-linear"]})
    facts = attempt.provenance["exports"]["merged"]
    assert facts["dtype"] == "float32"
    assert 1e-3 < facts["logit_difference"] < facts["logit_difference_limit"], "what bf16 rounds is no error of merging"


def test_in_bf16_the_merged_model_is_as_near_as_rounding_lets_it_be(tmp_path: Path, models: dict[str, Path]):
    import torch

    attempt = exported(tmp_path, models["llama"], {"method": "lora", "rank": 4, "precision": "bf16"})
    merged = loaded(attempt.output / "merged")
    assert merged.dtype == torch.bfloat16
    adapted = with_adapter(loaded(models["llama"], dtype=torch.bfloat16), attempt.output)
    facts = attempt.provenance["exports"]["merged"]
    assert 0 < facts["logit_difference"] < 0.03 < facts["adapter_effect"]
    wrong = (logits(merged) - logits(adapted)).square().mean().sqrt() / logits(adapted).std()
    assert wrong < 0.03
    # rounded once, from the sum in fp32
    weight = merged.model.layers[0].self_attn.q_proj.weight
    layer = adapted.get_base_model().model.layers[0].self_attn.q_proj
    assert torch.equal(weight, (layer.base_layer.weight.float() + layer.get_delta_weight("default")).bfloat16())


def test_a_large_model_is_in_shards(tmp_path: Path, tiny_model: Path, tokenizer: Any):
    import torch

    from agent.trainer import merging

    merging.save(loaded(tiny_model), tokenizer, tmp_path, use_cache=True, shard_size="60KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert torch.equal(logits(loaded(tmp_path)), logits(loaded(tiny_model)))


def test_a_model_that_says_something_else_than_was_trained_is_refused(tmp_path: Path, tiny_model: Path):
    """The base model in the merged one's place: what an adapter that went missing leaves."""
    import torch

    from agent.trainer.failures import MergeInexact
    from agent.trainer.merging import Probe, check

    attempt = exported(tmp_path, tiny_model, {"method": "lora", "rank": 4})
    ids = torch.arange(3, 40)[None]
    said = logits(loaded(attempt.output / "merged"))[0]
    facts = check(attempt.output / "merged", Probe((ids,), (said,), ()), torch.device("cpu"))
    assert facts["logit_difference"] < 1e-6
    with pytest.raises(MergeInexact, match="the merged model's logits differ from the trained model's by"):
        check(tiny_model, Probe((ids,), (said,), ()), torch.device("cpu"))


def test_what_rounding_takes_away_is_told(attempt: Attempt):
    attempt.assign(
        export={"merged": True},
        customization={"precision": "bf16"},
        tuning_parameters={"learning_rate": 3e-4, "max_steps": 1},
    )
    assert attempt.run() == 0
    assert [warning["reason"] for warning in attempt.said("warning")] == ["MERGE_ROUNDS_AWAY"]


@pytest.mark.parametrize(
    ("customization", "said"),
    [
        ({"method": "lora", "target_modules": ["lm_head"]}, "shares its weights"),
        ({"method": "lora", "peft": {"config": {"lora_bias": True}}}, "lora_bias"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_it_is_trained(
    tmp_path: Path, customization: dict[str, Any], said: str
):
    model = write_tiny_model(tmp_path / "tied", architecture="llama", tied=True)
    attempt = Attempt(tmp_path, model)
    attempt.assign(export={"merged": True}, customization={"rank": 4, **customization})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert said in message
    assert not attempt.said("progress")


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "p_tuning"])
def test_a_prompt_is_not_merged(attempt: Attempt, method: str):
    attempt.assign(export={"merged": True}, customization={"method": method})
    document = json.loads((attempt.directory / "assignment.json").read_text())
    document["spec"]["customization"] = {"method": method, "precision": "fp32"}
    (attempt.directory / "assignment.json").write_text(json.dumps(document))
    assert failed_with(attempt) == (
        "CONFIG_INVALID",
        f"export: method `{method}` trains a prompt, and no weights that could be merged",
    )
