"""Backend `bare` beside the libraries that it does without: the same logits, the same losses, the same adapter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from trainplane_bare.failure import Failure
from trainplane_bare.plan import Source
from trainplane_bare.rows import read

from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.trainer.attempts import Attempt

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "biased": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "qwen2": ("qwen2", {}),
}


@pytest.fixture(params=VARIANTS)
def model_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture, changes = VARIANTS[request.param]
    directory = write_tiny_model(tmp_path / "model", architecture=architecture)
    config = AutoConfig.from_pretrained(directory)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # biases too, which are zero by default
    model.save_pretrained(directory)
    return directory


def test_its_decoder_computes_what_transformers_computes(model_directory: Path):
    from trainplane_bare.llama import load
    from trainplane_bare.model_files import inspect
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 203).remainder(250).view(2, 100)
    files = inspect(model_directory, "tiny")
    for recompute in (False, True):
        bare = load(files, dtype=torch.float32, device=torch.device("cpu"), recompute=recompute).train()
        with torch.no_grad():
            wanted = AutoModelForCausalLM.from_pretrained(model_directory).eval()(ids).logits
            torch.testing.assert_close(bare(ids), wanted, rtol=1e-4, atol=1e-5)
            some = torch.rand(ids.shape) < 0.3
            torch.testing.assert_close(bare(ids, some), wanted[some], rtol=1e-4, atol=1e-5)


def trained_by_bare(attempt: Attempt) -> int:
    from trainplane_bare.attempt import run

    return run(str(attempt.directory), alone=False)


def test_peft_opens_its_adapter_and_computes_what_bare_computed(attempt: Attempt):
    from peft import PeftModel
    from safetensors.torch import load_file
    from trainplane_bare import lora, plan
    from trainplane_bare.llama import load
    from trainplane_bare.model_files import inspect
    from transformers import AutoModelForCausalLM

    attempt.assign(customization={"trainable_layers": ["decoder.layers.1"], "target_modules": ["all-linear"]})
    assert trained_by_bare(attempt) == 0, attempt.reports[-1]

    base = AutoModelForCausalLM.from_pretrained(attempt.model)
    ids = torch.arange(3, 53).view(1, -1)
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, str(attempt.output)).eval()(ids).logits
    bare = load(inspect(attempt.model, "tiny"), dtype=torch.float32, device=torch.device("cpu"), recompute=False)
    tensors = lora.named_tensors(lora.adapt(bare, plan.read(attempt.directory)))
    saved = load_file(attempt.output / "adapter_model.safetensors")
    assert set(saved) == set(tensors)
    assert all(".layers.1." in name for name in saved)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
        torch.testing.assert_close(bare.eval()(ids), after, rtol=1e-4, atol=1e-5)
    assert (after - before).abs().max() > 0.1


def test_the_first_loss_is_that_of_backend_peft_and_the_last_is_like_it(attempt: Attempt):
    """Before the first step both adapters add nothing: the same examples, the same mask, the same mean."""
    attempt.assign(tuning_parameters={"batch_size": 24, "num_epochs": 12})
    assert attempt.run() == 0
    theirs = attempt.said("metrics")[0]["series"]["loss"]
    (attempt.directory / "reports.jsonl").unlink()
    assert trained_by_bare(attempt) == 0
    ours = attempt.provenance["losses"]
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[-1] == pytest.approx(theirs[-1], rel=0.1)
    assert ours[-1] < 0.9 * ours[0]


def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(attempt: Attempt):
    losses = []
    for size in (1, 5, 64):
        attempt.assign(backend_options={"micro_batch_size": size})
        assert trained_by_bare(attempt) == 0
        losses.append(attempt.provenance["losses"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gelu"}, "MODEL_FORMAT_UNSUPPORTED"),
        ({"model_type": "gpt2"}, "MODEL_FORMAT_UNSUPPORTED"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "MODEL_FORMAT_UNSUPPORTED"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "MODEL_FORMAT_UNSUPPORTED"),
        ({"hidden_size": 64}, "MODEL_FORMAT_UNSUPPORTED"),
        ({"num_hidden_layers": 5}, "MODEL_FORMAT_UNSUPPORTED"),
    ],
)
def test_a_model_that_it_cannot_compute_is_refused(
    attempt: Attempt, tmp_path: Path, changes: dict[str, Any], reason: str
):
    attempt.model = write_tiny_model(tmp_path / "odd")
    config = attempt.model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    attempt.assign()
    assert trained_by_bare(attempt) == 1
    assert (attempt.reports[-1]["reason"], attempt.reports[-1]["message"][:21]) == (reason, "base_model.model_name")


@pytest.mark.parametrize(
    ("rows", "reason", "words"),
    [
        ([{"text": "good"}, "no json", {"text": 5}], "DATASET_INVALID", "datasets[0].source: row 2 of"),
        ([{"messages": []}], "DATASET_INVALID", "backend peft"),
        ([{"colour": "red"}], "DATASET_INVALID", "neither prompt and completion"),
        ([], "DATASET_EMPTY", "has no rows"),
    ],
)
def test_rows_that_it_cannot_train_on_are_refused(attempt: Attempt, rows: list[Any], reason: str, words: str):
    attempt.assign(rows=rows)
    assert trained_by_bare(attempt) == 1
    assert attempt.reports[-1]["reason"] == reason
    assert words in attempt.reports[-1]["message"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": "body"}, "has no field body (datasets[0].columns.text); it has completion, prompt"),
        ({"prompt": "prompt", "completion": "c"}, "has no field c (datasets[0].columns.completion); it has completion"),
        ({"instruction": "prompt", "output": "completion", "input": "c"}, "datasets[0].columns.input: no row of"),
        ({"text": "prompt", "output": "completion"}, "datasets[0].columns: text, output are fields of different kinds"),
    ],
)
def test_columns_that_are_not_there_are_refused(tmp_path: Path, columns: dict[str, str], words: str):
    with pytest.raises(Failure) as caught:
        read(source(tmp_path, {"prompt": "a", "completion": "b"}, columns))
    assert words in str(caught.value)


def test_the_kind_of_a_mapped_field_wins(tmp_path: Path):
    (row,) = read(source(tmp_path, {"prompt": "a", "completion": "b", "body": "c"}, {"text": "body"})).rows
    assert (row.before, row.trained) == ("", "c")


def source(directory: Path, row: dict[str, str], columns: dict[str, str]) -> Source:
    path = directory / "rows.jsonl"
    path.write_text(json.dumps(row))
    return Source("datasets[0].source", path.as_uri(), path, "", columns)


def test_what_is_cut_is_told(attempt: Attempt):
    rows = [
        {"prompt": "What is it? " * 20, "completion": "It is."},
        {"instruction": "Say.", "input": "x", "output": "y" * 400},
    ]
    attempt.assign(rows=rows, tuning_parameters={"max_sequence_length": 120})
    assert trained_by_bare(attempt) == 0
    warned = {report["reason"]: report["message"] for report in attempt.said("warning")}
    assert set(warned) == {"ROWS_TRUNCATED", "ROWS_WITHOUT_TARGET"}
    assert "row 2 of" in warned["ROWS_WITHOUT_TARGET"]
