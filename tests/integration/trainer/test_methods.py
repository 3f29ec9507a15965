"""Every method on three architectures: it learns, what it leaves is all that has moved, and it is what its name says.

What was trained is put on a fresh base model by plain `from_pretrained`. That its loss on the eval split is the one
that the trainer measured on its own model shows two things at once: it is read as it was trained, and nothing else had moved.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with
from tests.support.tiny_models import ARCHITECTURES, write_tiny_model
from trainplane.backends.peft_methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = [{"text": f"What is {number}? It is {number}."} for number in range(16)]
EVALUATED = [{"text": f"What is {number}? It is {number}, of course."} for number in range(5)]
#: Methods that only ever change a little need more than a few steps at a common rate.
RATES = {"prompt_tuning": 0.3, "prefix_tuning": 0.1, "vera": 0.1, "adalora": 0.05, "layernorm": 0.05}
#: PEFT's own layers for them stand in for torch's linear layers only, and GPT-2 has another kind.
UNSUPPORTED = [("gpt2", "oft"), ("gpt2", "boft")]
#: PEFT warns of its own doings when it loads an adapter; what comes of them is what these tests look at.
PEFT_TELLS = (
    "`is_gradient_checkpointing` is deprecated",
    "The following rank_pattern keys",  # AdaLoRA's are not LoRA's, and are obeyed
    "Invalid `oft_block_size`",
    "Failed to load the CUDA extension",
    "Setting boft_n_butterfly_factor to 1",
    "Unsupported layer type",
)
CASES = [(model, method) for model in ARCHITECTURES for method in METHODS if (model, method) not in UNSUPPORTED]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("architectures")
    return {name: write_tiny_model(directory / name, architecture=name) for name in ARCHITECTURES}


def train(
    directory: Path,
    model: Path,
    method: str,
    config: dict[str, Any] | None = None,
    *,
    tuning: dict[str, Any] | None = None,
    **customization: Any,
) -> Attempt:
    """Assign a few steps with a method; nothing is run yet."""
    attempt = Attempt(directory, model)
    evaluated = attempt.dataset(EVALUATED, "eval.jsonl")
    block = {"rank": None, "lora_alpha": None, "target_modules": None, "method": method, **customization}
    attempt.assign(
        rows=ROWS,
        datasets=[{"source": (directory / "rows.jsonl").as_uri()}, {"source": evaluated, "split": "eval"}],
        customization={**block, "peft": {"config": config or {}} if method != "full" else {"use": False}},
        tuning_parameters={"max_steps": 10, "learning_rate": RATES.get(method, 1e-2), **(tuning or {})},
    )
    return attempt


@dataclass
class Result:
    """What a training left, as a stranger loads it."""

    attempt: Attempt
    model: Any
    base: dict[str, Any]
    """The base model's weights."""
    weights: dict[str, Any]
    """The tensors in the file, by short names."""

    def modules(self, attribute: str) -> dict[str, Any]:
        return {name: module for name, module in self.model.named_modules() if hasattr(module, attribute)}

    @property
    def loss(self) -> float:
        """Of the eval split, per token."""
        import torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.attempt.model)
        total, count = 0.0, 0
        for row in EVALUATED:
            ids = torch.tensor([[*tokenizer(row["text"]).input_ids, tokenizer.eos_token_id]])
            with torch.inference_mode():
                logits = self.model(input_ids=ids).logits[:, -ids.shape[1] :].float()
            total += torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
        return total / count


def load(attempt: Attempt, method: str, *, precision: str = "fp32") -> Result:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from agent.trainer.quantized import pin

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    plain = AutoModelForCausalLM.from_pretrained(attempt.model).state_dict()
    if method == "full":
        model = AutoModelForCausalLM.from_pretrained(attempt.output)
        assert model.dtype == dtype
        return Result(attempt, model.eval(), plain, dict(model.state_dict()))
    quantized: dict[str, Any] = {}
    if method == "qlora":
        # As it was trained: on the quantized base.
        quantized["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )  # fmt: skip
    base = pin(AutoModelForCausalLM.from_pretrained(attempt.model, dtype=dtype, **quantized))
    with warnings.catch_warnings():
        for told in PEFT_TELLS:
            warnings.filterwarnings("ignore", message=told)
        model = PeftModel.from_pretrained(base, attempt.output).eval()
    weights = load_file(attempt.output / "adapter_model.safetensors")
    short = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    return Result(attempt, model, plain, short)


def kinds(result: Result) -> set[str]:
    """The last words of the tensors' names, without `weight` and `bias`."""
    return {name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2] for name in result.weights}


def is_lora(result: Result) -> None:
    assert kinds(result) == {"lora_A", "lora_B"}
    assert all(tensor.abs().max() > 0 for tensor in result.weights.values())


def is_qlora(result: Result) -> None:
    is_lora(result)
    facts = result.attempt.provenance["base_model"]["quantization"]
    assert (facts["bits"], facts["type"]) == (4, "nf4")
    assert facts["modules"] == len(result.modules("lora_A"))


def is_dora(result: Result) -> None:
    import torch

    assert kinds(result) == {"lora_A", "lora_B", "lora_magnitude_vector"}
    for name, module in result.modules("lora_magnitude_vector").items():
        weight = module.base_layer.weight if result.attempt.model.name != "gpt2" else module.base_layer.weight.T
        magnitude = module.lora_magnitude_vector["default"].weight
        assert magnitude.shape == weight.shape[:1], name
        assert not torch.equal(magnitude, weight.norm(dim=1)), name


def is_adalora(result: Result) -> None:
    assert kinds(result) == {"lora_A", "lora_B", "lora_E"}
    ranks = {name: tensor.shape[0] for name, tensor in result.weights.items() if name.endswith("lora_E")}
    assert len(set(ranks.values())) > 1, "no rank was given to one module and taken from another"
    assert sum(ranks.values()) <= 16 * len(ranks), "the budget is the rank for each module"
    told = result.attempt.provenance["adapter"]["ranks"]
    assert {f"{name}.lora_E": rank for name, rank in told.items()} == ranks


def is_ia3(result: Result) -> None:
    assert kinds(result) == {"ia3_l"}
    forward = {name for name, module in result.modules("ia3_l").items() if module.is_feedforward}
    assert {name.rpartition(".")[2] for name in forward} == {
        "c_proj" if result.attempt.model.name == "gpt2" else "down_proj"
    }
    assert all((tensor != 1).any() for tensor in result.weights.values())


def is_vera(result: Result) -> None:
    shared = {name for name in result.weights if name.endswith(("vera_A", "vera_B"))}
    assert len(shared) == 2, "one projection for all modules"
    assert kinds(result) == {"vera_A", "vera_B", "vera_lambda_b", "vera_lambda_d"}
    modules = result.modules("vera_lambda_b").values()
    assert len({module.vera_A["default"].data_ptr() for module in modules}) == 1
    assert all(tensor.abs().max() > 0 for name, tensor in result.weights.items() if name.endswith("lambda_b"))


def rotates(result: Result, attribute: str) -> None:
    """Each module's rotation is one: the product with its transpose is the identity, and it is not that itself."""
    import torch

    for module in result.modules(attribute).values():
        found = module.get_delta_weight("default")
        rotation = found[0] if isinstance(found, tuple) else found
        identity = torch.eye(len(rotation))
        assert torch.allclose(rotation @ rotation.T, identity, atol=1e-4)
        assert not torch.allclose(rotation, identity, atol=1e-3)


def is_oft(result: Result) -> None:
    assert kinds(result) == {"oft_R"}
    rotates(result, "oft_R")


def is_boft(result: Result) -> None:
    assert kinds(result) == {"boft_R", "boft_s"}
    rotates(result, "boft_R")


def is_prompt(result: Result) -> None:
    """No delta of any weight: only what stands before the text."""
    assert set(result.weights) == {"prompt_embeddings"}
    assert result.weights["prompt_embeddings"].shape[0] == 20
    for name, tensor in result.model.get_base_model().state_dict().items():
        assert tensor.equal(result.base[name]), name


def is_prefix(result: Result) -> None:
    is_prompt(result)
    config = result.model.get_base_model().config
    keys_and_values = 2 * config.num_hidden_layers * result.model.peft_config["default"].token_dim
    assert result.weights["prompt_embeddings"].shape == (20, keys_and_values)


def is_layernorm(result: Result) -> None:
    names = {name.rpartition(".ln_tuning_layers")[0] or name for name in result.weights}
    assert all("norm" in name or ".ln_" in name for name in names)
    for name, tensor in result.weights.items():
        assert not tensor.equal(result.base[name.replace(".ln_tuning_layers", "")]), name


def is_full(result: Result) -> None:
    still = [name for name, tensor in result.weights.items() if tensor.equal(result.base[name])]
    # Keys' biases do not matter to a softmax over keys: their gradient is nothing but noise.
    assert [name for name in still if not name.endswith("k_proj.bias")] == []
    config = json.loads((result.attempt.output / "config.json").read_text())
    assert config["use_cache"] is True
    assert str(result.attempt.model) not in json.dumps(config)
    assert {"tokenizer.json", "model.safetensors"} <= {path.name for path in result.attempt.output.iterdir()}
    assert not (result.attempt.output / "adapter_config.json").exists()


IS: dict[str, Callable[[Result], None]] = {
    "lora": is_lora,
    "qlora": is_qlora,
    "dora": is_dora,
    "adalora": is_adalora,
    "ia3": is_ia3,
    "vera": is_vera,
    "oft": is_oft,
    "boft": is_boft,
    "prompt_tuning": is_prompt,
    "prefix_tuning": is_prefix,
    "p_tuning": is_prompt,
    "layernorm": is_layernorm,
    "full": is_full,
}
CONFIGS = {"oft": {"use_cayley_neumann": False}}


@pytest.mark.parametrize(("architecture", "method"), CASES)
def test_it_learns_loads_elsewhere_and_is_what_its_name_says(
    models: dict[str, Path], tmp_path: Path, architecture: str, method: str
):
    attempt = train(tmp_path, models[architecture], method, CONFIGS.get(method))
    assert attempt.run() == 0, attempt.reports[-1]
    losses = attempt.provenance["losses"]
    assert losses["eval_after"] < 0.99 * losses["eval_before"]
    result = load(attempt, method)
    assert result.loss == pytest.approx(losses["eval_after"], rel=2e-5)
    IS[method](result)
    if method != "full":
        config = json.loads((attempt.output / "adapter_config.json").read_text())
        assert config["peft_type"] == METHODS[method].peft_type
        assert config["base_model_name_or_path"] == str(models[architecture])
    card = (attempt.output / "README.md").read_text()
    assert ("PeftModel" in card) == (method != "full")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "qlora"])
def test_in_bf16_it_learns_too_and_what_moves_is_in_fp32(models: dict[str, Path], tmp_path: Path, method: str):
    attempt = train(tmp_path, models["llama"], method, precision="bf16")
    assert attempt.run() == 0, attempt.reports[-1]
    losses = attempt.provenance["losses"]
    assert losses["eval_after"] < 0.99 * losses["eval_before"]
    assert attempt.provenance["adapter"]["dtype"] == "float32"
    assert load(attempt, method, precision="bf16").loss == pytest.approx(losses["eval_after"], rel=1e-2)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if not row.prompt])
def test_only_the_chosen_block_is_trained(models: dict[str, Path], tmp_path: Path, method: str):
    attempt = train(tmp_path, models["llama"], method, trainable_layers=["layers.1"], tuning={"max_steps": 3})
    assert attempt.run() == 0, attempt.reports[-1]
    result = load(attempt, method)
    moved = {
        name
        for name, tensor in result.weights.items()
        if method != "full" or not tensor.equal(result.base[name])
        if not name.endswith(("vera_A", "vera_B"))
    }
    assert moved
    assert all(".layers.1." in f".{name}" for name in moved)
    assert result.loss == pytest.approx(attempt.provenance["losses"]["eval_after"], rel=2e-5)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("adalora", {"init_r": 20, "tinit": 1, "tfinal": 0, "deltaT": 2}),
        ("ia3", {"feedforward_modules": ["up_proj", "down_proj"]}),
        ("ia3", {"feedforward_modules": [], "exclude_modules": ["o_proj"]}),
        ("vera", {"d_initial": 0.5, "projection_prng_key": 7}),
        ("oft", {"oft_block_size": 16, "use_cayley_neumann": False, "block_share": True}),
        ("oft", {"r": 4, "use_cayley_neumann": False}),
        ("boft", {"boft_block_num": 8}),
        ("prompt_tuning", {"num_virtual_tokens": 5, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Answer"}),
        ("prompt_tuning", {"prompt_tuning_init": "SAMPLE_VOCAB"}),
        ("prefix_tuning", {"prefix_projection": True}),
        ("prefix_tuning", {"init_weights": "zero"}),
        ("p_tuning", {"encoder_reparameterization_type": "LSTM", "encoder_dropout": 0.2}),
    ],
    ids=str,
)
def test_its_own_fields_are_obeyed(models: dict[str, Path], tmp_path: Path, method: str, config: dict[str, Any]):
    attempt = train(tmp_path, models["qwen2"], method, config, tuning={"max_steps": 6})
    assert attempt.run() == 0, attempt.reports[-1]
    saved = (attempt.output / "adapter_config.json").read_text()
    whole = {name: value for name, value in config.items() if name != "feedforward_modules"}
    assert {name: json.loads(saved)[name] for name in whole} == whole
    assert load(attempt, method).loss == pytest.approx(attempt.provenance["losses"]["eval_after"], rel=2e-5)
    assert "tokenizer" not in saved or json.loads(saved)["tokenizer_name_or_path"] in {None, str(attempt.model)}


def test_adalora_s_penalty_keeps_its_singular_vectors_apart(models: dict[str, Path], tmp_path: Path):
    import torch

    distances = []
    for weight in (0.0, 10.0):
        (tmp_path / str(weight)).mkdir()
        attempt = train(tmp_path / str(weight), models["llama"], "adalora", {"orth_reg_weight": weight})
        assert attempt.run() == 0, attempt.reports[-1]
        vectors = [tensor for name, tensor in load(attempt, "adalora").weights.items() if name.endswith("lora_A")]
        distances.append(sum((v @ v.T - torch.eye(len(v))).norm().item() for v in vectors))
    assert distances[1] < 0.8 * distances[0]


def test_virtual_tokens_take_their_place_from_the_model_s_positions(tmp_path: Path):
    model = write_tiny_model(tmp_path / "short", positions=32, architecture="gpt2")
    attempt = train(tmp_path, model, "prompt_tuning", tuning={"max_sequence_length": 2048})
    assert attempt.run() == 0, attempt.reports[-1]
    (warning, *_) = [said["message"] for said in attempt.said("warning")]
    assert "longer than 12 tokens" in warning
    (tmp_path / "long").mkdir()
    refused = train(tmp_path / "long", model, "prompt_tuning", {"num_virtual_tokens": 30})
    reason, message = failed_with(refused)
    assert reason == "CONFIG_INVALID"
    assert message.startswith("customization.peft.config.num_virtual_tokens: ")


@pytest.mark.parametrize(("architecture", "method"), UNSUPPORTED)
def test_a_model_without_layers_for_the_method_is_refused_in_words(
    models: dict[str, Path], tmp_path: Path, architecture: str, method: str
):
    reason, message = failed_with(train(tmp_path, models[architecture], method))
    assert reason == "TARGET_MODULES_NOT_FOUND"
    assert message.startswith(f"customization.method: {method} can adapt none of this model's layers")


def test_a_schedule_without_a_step_to_allocate_ranks_in_is_refused_in_words(models: dict[str, Path], tmp_path: Path):
    reason, message = failed_with(train(tmp_path, models["llama"], "adalora", {"tinit": 5, "tfinal": 5}))
    assert (reason, message.partition(":")[0]) == ("CONFIG_INVALID", "customization.peft.config.tinit")


def test_a_feed_forward_module_that_is_not_adapted_is_told(models: dict[str, Path], tmp_path: Path):
    attempt = train(tmp_path, models["llama"], "ia3", {"feedforward_modules": ["down_proj"]}, target_modules=["q_proj"])
    reason, message = failed_with(attempt)
    assert (reason, message.partition(":")[0]) == ("CONFIG_INVALID", "customization.peft.config.feedforward_modules")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "prefix_tuning"])
def test_recomputed_activations_change_nothing_but_memory(models: dict[str, Path], tmp_path: Path, method: str):
    curves = []
    for saving in (False, True):
        (tmp_path / str(saving)).mkdir()
        attempt = train(
            tmp_path / str(saving), models["llama"], method, tuning={"gradient_checkpointing": saving, "max_steps": 3}
        )
        assert attempt.run() == 0, attempt.reports[-1]
        curves.append(attempt.provenance["losses"]["steps"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.parametrize("method", ["adalora", "full", "prefix_tuning"])
def test_two_ranks_train_what_one_would(models: dict[str, Path], tmp_path: Path, start: Any, method: str):
    weights = (models["llama"] / "model.safetensors").read_bytes()
    attempts = []
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        attempt = train(tmp_path / str(ranks), models["llama"], method, tuning={"max_steps": 5, "batch_size": 6})
        attempt.set_ranks(ranks)
        process = start("agent.trainer", attempt.directory)
        assert process.wait(160) == 0, (process.lines[-1], process.log)
        attempts.append(attempt.provenance)
    alone, together = attempts
    assert together["losses"]["steps"] == pytest.approx(alone["losses"]["steps"], rel=1e-4)
    assert together["adapter"] == alone["adapter"]
    (digest,) = {rank["adapter_sha256"] for rank in together["ranks"]}
    assert len(digest) == 64
    assert (models["llama"] / "model.safetensors").read_bytes() == weights
