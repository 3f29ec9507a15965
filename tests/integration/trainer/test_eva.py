"""EVA: an adapter that begins where the data varies most, with the ranks that its layers are worth."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with
from tests.integration.trainer.test_methods import PEFT_TELLS, Result, load, train
from tests.integration.trainer.warm import train as train_apart
from tests.support.tiny_models import ARCHITECTURES, write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.trainer.process import Process

pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in PEFT_TELLS]

EVA = {"init_lora_weights": "eva"}
RANK = 4
FIELD = "customization.peft.config.init_lora_weights"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("architectures")
    return {name: write_tiny_model(directory / name, architecture=name) for name in ARCHITECTURES}


def eva(
    directory: Path, model: Path, method: str = "lora", config: dict[str, Any] | None = None, **more: Any
) -> Attempt:
    more = {"rank": RANK, "precision": "fp32", **more}
    return train(directory, model, method, {**EVA, **(config or {})}, **more)


def ranks_of(result: Result) -> dict[str, int]:
    return {name: tensor.shape[0] for name, tensor in result.weights.items() if name.endswith("lora_A.weight")}


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_it_learns_and_is_loaded_as_it_was_trained_with_ranks_of_its_own(
    tmp_path: Path, models: dict[str, Path], model: str
):
    attempt = eva(tmp_path, models[model])
    assert attempt.run() == 0, attempt.reports[-1]
    losses = attempt.provenance["losses"]
    assert losses["eval_after"] < losses["eval_before"]
    result = load(attempt, "lora")
    assert result.loss == pytest.approx(losses["eval_after"], rel=1e-4)
    ranks = ranks_of(result)
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 2 * RANK
    config = json.loads((attempt.output / "adapter_config.json").read_text())
    assert config["init_lora_weights"] == "eva"
    assert config["rank_pattern"]


@pytest.mark.parametrize("config", [{"use_dora": True}, {"use_rslora": True}, {"eva_config": {"whiten": True}}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_goes_with_what_lora_goes_with(
    tmp_path: Path, models: dict[str, Path], config: dict[str, Any], precision: str
):
    attempt = eva(tmp_path, models["llama"], config=config, precision=precision)
    assert attempt.run() == 0, attempt.reports[-1]
    facts = attempt.provenance
    assert facts["adapter"]["dtype"] == "float32"
    found = load(attempt, "lora", precision=precision).loss
    assert found == pytest.approx(facts["losses"]["eval_after"], rel=1e-4 if precision == "fp32" else 2e-2)


def test_it_begins_on_a_quantized_base_too(tmp_path: Path, models: dict[str, Path]):
    attempt = eva(tmp_path, models["llama"], "qlora", precision="bf16")
    assert attempt.run() == 0, attempt.reports[-1]
    losses = attempt.provenance["losses"]
    assert losses["eval_after"] < losses["eval_before"]
    assert len(set(ranks_of(load(attempt, "qlora", precision="bf16")).values())) > 1


def test_it_begins_with_directions_that_explain_the_layers_inputs(tmp_path: Path, models: dict[str, Path]):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    even = {"eva_config": {"rho": 1.0, "use_label_mask": False}}
    attempt = eva(tmp_path, models["llama"], config=even, tuning={"max_steps": 1, "learning_rate": 1e-9})
    assert attempt.run() == 0, attempt.reports[-1]
    result = load(attempt, "lora")
    assert set(ranks_of(result).values()) == {RANK}
    name = next(name for name in result.weights if name.endswith("mlp.down_proj.lora_A.weight"))
    directions = result.weights[name]
    assert torch.allclose(directions @ directions.T, torch.eye(RANK), atol=1e-4)

    base = AutoModelForCausalLM.from_pretrained(models["llama"])
    tokenizer = AutoTokenizer.from_pretrained(models["llama"])
    seen: list[torch.Tensor] = []
    base.get_submodule(name.removesuffix(".lora_A.weight")).register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0][0].detach())
    )
    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        base(input_ids=torch.tensor([[*tokenizer(json.loads(line)["text"]).input_ids, tokenizer.eos_token_id]]))
    inputs = torch.cat(seen)
    inputs = inputs - inputs.mean(0)
    whole = torch.linalg.svdvals(inputs).square()
    explained = (inputs @ directions.T).square().sum() / whole.sum()
    assert explained > 0.95 * whole[:RANK].sum() / whole.sum()


def test_two_ranks_begin_alike_and_make_the_steps_of_one(tmp_path: Path, models: dict[str, Path], start: Any):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (eva(tmp_path / name, models["llama"], tuning={"packing": name == "two"}) for name in ("one", "two"))
    two.set_ranks(2)
    process: Process = start("agent.trainer", two.directory)
    assert one.run() == 0, one.reports[-1]
    assert process.wait(120) == 0, process.log
    assert len({rank["adapter_sha256"] for rank in two.provenance["ranks"]}) == 1
    assert two.provenance["losses"]["steps"] == pytest.approx(one.provenance["losses"]["steps"], rel=1e-4)


def test_a_killed_one_goes_on_to_the_same_bytes(tmp_path: Path, models: dict[str, Path]):
    attempts = []
    for name in ("whole", "killed", "next"):
        (tmp_path / name).mkdir()
        attempts.append(eva(tmp_path / name, models["llama"], tuning={"checkpoint_steps": 3}))
    whole, killed, following = attempts
    path = following.directory / "assignment.json"
    document = json.loads(path.read_text())
    # The rows' own places are part of no adapter.
    document |= {"attempt": 2, "resume_from": str(killed.directory / "checkpoints")}
    path.write_text(json.dumps(document))
    assert train_apart(whole.directory) == 0
    assert train_apart(killed.directory, failpoint="trainer.step-5") == -signal.SIGKILL
    assert train_apart(following.directory) == 0
    assert following.provenance["training"]["resumed_from"] == 3
    weights = [(each.output / "adapter_model.safetensors").read_bytes() for each in (whole, following)]
    assert weights[0] == weights[1]


def test_it_is_merged_like_any_other(tmp_path: Path, models: dict[str, Path]):
    attempt = eva(tmp_path, models["llama"])
    path = attempt.directory / "assignment.json"
    document = json.loads(path.read_text())
    document["spec"]["export"] = {"merged": True}
    path.write_text(json.dumps(document))
    assert attempt.run() == 0, attempt.reports[-1]
    assert attempt.provenance["exports"]["merged"]


def test_too_little_data_for_its_ranks_is_refused_before_a_step(tmp_path: Path, models: dict[str, Path]):
    attempt = eva(tmp_path, models["llama"], rank=200, config={"eva_config": {"rho": 8.0}})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith(f"{FIELD}: eva needs 1600 positions")
    assert "lower customization.rank or rho" in message


def test_more_directions_than_a_layer_has_are_refused_in_words(tmp_path: Path, models: dict[str, Path]):
    attempt = eva(tmp_path, models["llama"], rank=60)
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith(f"{FIELD}: eva cannot begin 120 directions a layer")
