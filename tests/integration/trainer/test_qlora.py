"""QLoRA on a CPU: the base is really in four bits, the adapter is not, and the output is an ordinary adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with
from tests.support.tiny_models import ARCHITECTURES, write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "qwen2": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("architectures")
    return {name: write_tiny_model(directory / name, architecture=name) for name in ARCHITECTURES}


def adapted(model_directory: Path, qlora: dict[str, Any], **customization: Any) -> Any:
    """The model as the trainer makes it, before its first step."""
    from agent.trainer import model
    from agent.trainer.assignment import parse
    from agent.trainer.device import choose
    from agent.trainer.model_files import inspect_model

    block = {"method": "qlora", "rank": 4, "qlora": qlora, **customization}
    spec = {
        "base_model": {"model_name": str(model_directory)},
        "customization": block,
        "datasets": [{"source": "file:///unused"}],
    }
    assignment = parse({"spec": spec})
    files = inspect_model(str(model_directory))
    place = choose(assignment.customization.precision, wants_gpu=False)
    base = model.load_base(files, assignment.customization, place)
    return model.adapt(base, assignment, model.load_tokenizer(files), place)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_the_base_s_linear_layers_are_in_four_bits_and_nothing_else_is(
    models: dict[str, Path], kind: str, *, double: bool
):
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    made = adapted(
        models["llama"],
        {"bnb_4bit_quant_type": kind, "use_double_quant": double, "bnb_4bit_compute_dtype": "float32"},
        precision="bf16",
    )
    base = made.model.get_base_model()
    quantized = {name: module for name, module in base.named_modules() if isinstance(module, Linear4bit)}
    projections = {name.removesuffix(".base_layer").rpartition(".")[2] for name in quantized}
    assert projections == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(quantized) == 3 * 7
    for module in quantized.values():
        assert isinstance(module.weight, Params4bit)
        assert module.weight.dtype == torch.uint8
        assert module.weight.numel() * 2 == module.in_features * module.out_features
        assert (module.weight.quant_state.quant_type, module.weight.quant_state.nested) == (kind, double)
        assert module.compute_dtype == torch.float32
    assert base.get_input_embeddings().weight.dtype == base.get_output_embeddings().weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in made.trainable} == {torch.float32}
    assert made.quantization == {
        "bits": 4, "type": kind, "double_quant": double, "compute_dtype": "float32", "modules": 21,
        "bytes": sum(module.weight.numel() for module in quantized.values()),
    }  # fmt: skip


def test_what_flows_between_layers_is_in_the_job_s_precision(models: dict[str, Path]):
    import torch

    made = adapted(models["llama"], {}, precision="bf16")
    seen = set()
    for layer in made.model.get_base_model().model.layers:
        layer.register_forward_hook(
            lambda _module, _args, output: seen.add((output[0] if isinstance(output, tuple) else output).dtype)
        )
    made.model(input_ids=torch.tensor([[3, 4, 5]]))
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("double", [True, False])
def test_an_evaluation_leaves_the_base_as_it_was(models: dict[str, Path], *, double: bool):
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    base = adapted(models["llama"], {"use_double_quant": double}).model.get_base_model()

    def weights() -> list[torch.Tensor]:
        layers = [module.weight for module in base.modules() if isinstance(module, Linear4bit)]
        return [dequantize_4bit(weight.data, weight.quant_state) for weight in layers]

    before = weights()
    with torch.inference_mode():
        base.eval()(input_ids=torch.tensor([[3, 4, 5]]))
    for one, other in zip(before, weights(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_it_learns_and_loads_with_plain_peft_on_the_full_base(
    models: dict[str, Path], tmp_path: Path, architecture: str, precision: str
):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    attempt = Attempt(tmp_path, models[architecture])
    attempt.assign(
        customization={
            "method": "qlora",
            "target_modules": TARGETS[architecture],
            "trainable_layers": ["layers.0", "layers.1"],
            "lora_dropout": 0.05,
            "precision": precision,
        },
        tuning_parameters={"num_epochs": 5, "gradient_checkpointing": True},
    )
    assert attempt.run() == 0, attempt.reports[-1]
    losses, base_facts = attempt.provenance["losses"], attempt.provenance["base_model"]
    assert losses["last"] < 0.9 * losses["first"]
    assert base_facts["quantization"]["modules"] >= 6
    assert attempt.provenance["adapter"]["method"] == "qlora"
    weights = load_file(attempt.output / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert all(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    base = AutoModelForCausalLM.from_pretrained(attempt.model)
    assert base_facts["parameters"] == base.num_parameters()
    prompt = AutoTokenizer.from_pretrained(attempt.model)("What is 3? It is 3.<|endoftext|>", return_tensors="pt")
    with torch.inference_mode():
        before = base(prompt.input_ids, labels=prompt.input_ids).loss.item()
        tuned = PeftModel.from_pretrained(base, attempt.output).eval()
        after = tuned(prompt.input_ids, labels=prompt.input_ids).loss.item()
    assert after < 0.95 * before


def test_a_compute_type_that_a_cpu_lacks_is_refused_in_words(attempt: Attempt):
    attempt.assign(customization={"method": "qlora", "qlora": {"bnb_4bit_compute_dtype": "float16"}})
    reason, message = failed_with(attempt)
    assert reason == "PRECISION_UNSUPPORTED"
    assert message.startswith("customization.qlora.bnb_4bit_compute_dtype: ")


def test_gradient_checkpointing_changes_nothing_but_memory(models: dict[str, Path], tmp_path: Path):
    curves = []
    for name, saving in (("plain", False), ("recomputed", True)):
        (tmp_path / name).mkdir()
        attempt = Attempt(tmp_path / name, models["llama"])
        attempt.assign(
            customization={"method": "qlora", "lora_dropout": 0.1},
            tuning_parameters={"max_steps": 3, "gradient_checkpointing": saving},
        )
        assert attempt.run() == 0, attempt.reports[-1]
        curves.append(attempt.provenance["losses"]["steps"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)
