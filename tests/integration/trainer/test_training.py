"""A whole training of a tiny real model, looked at from outside."""

from __future__ import annotations

import json
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with

GOLDEN_LOSSES = Path(__file__).parents[2] / "golden" / "trainer" / "losses.json"


def trained_curve(attempt: Attempt) -> list[float]:
    trained(attempt, tuning_parameters={"warmup_ratio": 0.2, "num_epochs": 4})
    return attempt.provenance["losses"]["steps"]


def adapter_weights(output: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(output / "adapter_model.safetensors")


def trained(attempt: Attempt, **changes: Any) -> Attempt:
    attempt.assign(**changes)
    assert attempt.run() == 0, attempt.reports[-1]
    return attempt


def test_the_output_loads_with_plain_peft_and_the_loss_fell(attempt: Attempt, tokenizer: Any):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trained(attempt, tuning_parameters={"num_epochs": 5})
    assert sorted(path.name for path in attempt.output.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "audit.json",
        "provenance.json",
        "tensorboard",
    ]
    base = AutoModelForCausalLM.from_pretrained(attempt.model, dtype=torch.float32)
    prompt = tokenizer("What is 3? It is 3.<|endoftext|>", return_tensors="pt").input_ids
    with torch.inference_mode():
        before = base(prompt, labels=prompt).loss.item()
        after = PeftModel.from_pretrained(base, attempt.output).eval()(prompt, labels=prompt).loss.item()
    assert after < 0.8 * before


def test_only_the_targeted_modules_have_moved(attempt: Attempt):
    trained(attempt)
    weights = adapter_weights(attempt.output)
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "v_proj"}
    moved = {name for name, tensor in weights.items() if "lora_B" in name and tensor.abs().max() > 0}
    assert moved == {name for name in weights if "lora_B" in name}
    config = json.loads((attempt.output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(attempt.model)
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")


def test_all_linear_reaches_every_linear_layer_but_the_head(attempt: Attempt):
    trained(attempt, customization={"target_modules": ["all-linear"]}, tuning_parameters={"max_steps": 1})
    names = {name.split(".")[-3] for name in adapter_weights(attempt.output)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_what_it_says_is_in_order_and_whole(attempt: Attempt):
    trained(attempt)
    kinds = [report["kind"] for report in attempt.reports]
    assert [report["phase"] for report in attempt.said("phase")] == [
        "FETCHING_MODEL",
        "PREPARING_DATA",
        "PREPARING_DATA",
        "TRAINING",
    ]
    assert kinds[-1] == "finished"
    first, last = attempt.said("progress")[0], attempt.said("progress")[-1]
    assert (first["step"], last["step"], last["total_steps"], last["epoch"]) == (1, 6, 6, 2.0)
    assert last["remaining_seconds"] == 0
    for report in attempt.said("progress"):
        assert report["loss"] > 0
        assert report["grad_norm"] > 0
        assert report["learning_rate"] > 0
        assert report["tokens_per_second"] > 0


def test_the_losses_are_those_of_the_golden_file(attempt: Attempt):
    """A changed curve is a changed training: look why before the golden file is written anew."""
    losses = trained_curve(attempt)
    assert losses == pytest.approx(json.loads(GOLDEN_LOSSES.read_text()), rel=2e-3)
    assert losses[-1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path, tiny_model: Path):
    from tests.integration.trainer.attempts import Attempt

    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        attempt = trained(
            Attempt(tmp_path / name, tiny_model),
            customization={"lora_dropout": 0.1},
            tuning_parameters={"seed": seed, "max_steps": 2},
        )
        digests.append(sha256((attempt.output / "adapter_model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_bf16_trains_an_fp32_adapter_over_a_bf16_base(attempt: Attempt):
    import torch

    trained(attempt, customization={"precision": "bf16"}, tuning_parameters={"num_epochs": 4})
    assert {tensor.dtype for tensor in adapter_weights(attempt.output).values()} == {torch.float32}
    losses = attempt.provenance["losses"]
    assert losses["last"] < 0.9 * losses["first"]


def test_an_eval_split_is_measured_before_and_after(attempt: Attempt):
    rows = attempt.dataset([{"prompt": "What is 99? ", "completion": "It is 99."}], "eval.jsonl")
    train = attempt.dataset([{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(24)])
    trained(
        attempt, datasets=[{"source": train}, {"source": rows, "split": "eval"}], tuning_parameters={"num_epochs": 5}
    )
    losses = attempt.provenance["losses"]
    assert losses["eval_after"] < losses["eval_before"]
    last = attempt.said("progress")[-1]
    assert (last["eval_loss_before"], last["eval_loss"]) == (losses["eval_before"], losses["eval_after"])
    assert [report["phase"] for report in attempt.said("phase")][3:] == ["EVALUATING", "TRAINING", "EVALUATING"]


def test_several_datasets_are_trained_on_together(attempt: Attempt):
    questions = attempt.dataset([{"question": "Who? ", "answer": "Me."}] * 3, "q.jsonl")
    texts = attempt.dataset([{"text": "A trainer trains."}] * 2, "t.jsonl")
    trained(
        attempt,
        datasets=[{"source": questions, "columns": {"prompt": "question", "completion": "answer"}}, {"source": texts}],
        tuning_parameters={"max_steps": 1},
    )
    facts = attempt.provenance["datasets"]
    assert [(source["kind"], source["rows"]) for source in facts["sources"]] == [("completion", 3), ("text", 2)]
    assert facts["splits"]["train"]["examples"] == 5


def test_the_provenance_can_be_checked(attempt: Attempt):
    trained(attempt)
    facts = attempt.provenance
    rows = attempt.directory / "rows.jsonl"
    assert facts["datasets"]["sources"][0]["sha256"] == sha256(rows.read_bytes()).hexdigest()
    weights = attempt.model / "model.safetensors"
    assert facts["base_model"]["sha256"]["model.safetensors"] == sha256(weights.read_bytes()).hexdigest()
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert {"config.json", "model.safetensors"} | tokenizer <= facts["base_model"]["sha256"].keys()
    for name in tokenizer:
        assert facts["base_model"]["sha256"][name] == sha256((attempt.model / name).read_bytes()).hexdigest()
    assert facts["versions"]["trainplane"] == version("trainplane")
    assert facts["hardware"]["gpu"] is None
    assert facts["training"]["steps"] == 6
    assert facts["training"]["effective_batch_size"] == 8
    assert facts["training"]["tokens"] == 2 * facts["datasets"]["splits"]["train"]["tokens"]
    assert facts["training"]["padded_tokens"] >= facts["training"]["tokens"]
    assert facts["spec"]["tuning_parameters"]["seed"] == facts["training"]["seed"] == 7
    assert facts["adapter"]["trainable_parameters"] == sum(
        tensor.numel() for tensor in adapter_weights(attempt.output).values()
    )


def test_the_model_card_has_the_facts(attempt: Attempt):
    trained(attempt)
    card = (attempt.output / "README.md").read_text()
    assert f"adapter of `{attempt.model}`" in card
    assert "base_model:" not in card, "the hub refuses a path there"
    assert "| trained modules | q_proj, v_proj |" in card
    assert "PeftModel.from_pretrained" in card


def test_rows_that_are_too_long_are_cut_and_told(attempt: Attempt):
    rows = [{"text": "a trainer trains " * 40}, {"text": "short"}, {"prompt_only": 1, "text": "also short"}]
    trained(attempt, rows=rows, tuning_parameters={"max_sequence_length": 32, "max_steps": 1})
    (warning,) = attempt.said("warning")
    assert warning["reason"] == "ROWS_TRUNCATED"
    assert "1 of 3 texts" in warning["message"]
    assert "row 1 of" in warning["message"]
    assert attempt.provenance["datasets"]["splits"]["train"]["truncated"] == 1


LONG = [{"text": "a trainer trains " * 40}, {"text": "short"}, {"text": "also short"}]


def test_rows_that_are_too_long_are_left_out_where_the_request_says_so(attempt: Attempt):
    trained(attempt, rows=LONG, tuning_parameters={"max_sequence_length": 32, "max_steps": 1, "truncation": "drop"})
    (warning,) = attempt.said("warning")
    assert warning["reason"] == "ROWS_TOO_LONG"
    assert "1 of 3 texts of split train are longer than 32 tokens" in warning["message"]
    assert attempt.provenance["datasets"]["splits"]["train"]["dropped"] == 1
    audit = json.loads((attempt.output / "audit.json").read_text())
    assert audit["truncation"] == "drop"
    dropped = audit["splits"]["train"]["dropped"]
    assert (dropped["texts"], len(dropped["rows"])) == (1, 1)
    assert any("1 too long and left out" in report.get("message", "") for report in attempt.said("phase"))


def test_rows_that_are_too_long_fail_the_job_where_the_request_says_so(attempt: Attempt):
    rows = [*LONG, LONG[0]]
    attempt.assign(rows=rows, tuning_parameters={"max_sequence_length": 32, "truncation": "error"})
    reason, message = failed_with(attempt)
    assert reason == "DATASET_INVALID"
    assert "tuning_parameters.truncation: error, and 2 of 4 texts of split train are longer than 32 tokens" in message
    assert "raise max_sequence_length, or say right, left or drop" in message
    audit = json.loads((attempt.directory / "audit.json").read_text())
    assert audit["splits"]["train"]["dropped"]["texts"] == 2
    assert audit["failure"]["reason"] == "DATASET_INVALID"


def test_rows_whose_completion_is_cut_off_are_left_out_and_told(attempt: Attempt):
    rows = [{"prompt": "a trainer trains " * 40, "completion": "yes"}, {"prompt": "Who? ", "completion": "Me."}]
    trained(attempt, rows=rows, tuning_parameters={"max_sequence_length": 32, "max_steps": 1})
    assert {warning["reason"] for warning in attempt.said("warning")} == {"ROWS_TRUNCATED", "ROWS_WITHOUT_TARGET"}
    assert attempt.provenance["datasets"]["splits"]["train"]["examples"] == 1
