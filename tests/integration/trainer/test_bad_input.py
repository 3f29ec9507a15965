"""What users bring that cannot be trained on: each has its reason, the field to blame and what would help.

Beside `test_failing.py`, `test_rows.py` and `test_formats.py`: what those have is not said again here.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import QUESTIONS, Attempt, failed_with
from tests.integration.trainer.process import ROOT
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = "base_model.model_name: "
LINES = "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
TALK = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}]


# Models


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.clone() for name, tensor in load_file(model / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def not_a_number(model: Path) -> None:
    weights(model, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"][0].fill_(float("nan")))


def whole_numbers(model: Path) -> None:
    import torch

    weights(model, lambda tensors: tensors.update({name: each.to(torch.int8) for name, each in tensors.items()}))


def another_tokenizer(model: Path) -> None:
    """The weights know fewer tokens than the tokenizer has."""

    def halve(tensors: dict[str, Any]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:100].clone()

    weights(model, halve)
    rewrite(model / "config.json", vocab_size=100)


def a_shard_missing(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def content(data: bytes) -> Callable[[Path], object]:
    return lambda model: (model / "model.safetensors").write_bytes(data)


def a_link_to_nothing(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(model / "blobs" / "gone")


def configured(**changes: Any) -> Callable[[Path], object]:
    return lambda model: rewrite(model / "config.json", **changes)


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "NaN": (not_a_number, "MODEL_FORMAT_UNSUPPORTED", "1 of its weights hold NaN or infinity, the first model.layers.1.mlp.up_proj.weight; fetch"),
    "int8": (whole_numbers, "NOT_YET_SUPPORTED", "is I8: the model is quantized; name its full-precision weights"),
    "tokenizer": (another_tokenizer, "MODEL_FORMAT_UNSUPPORTED", "its weights know those below 100 (vocab_size in config.json): put the tokenizer"),
    "shard": (a_shard_missing, "MODEL_FORMAT_UNSUPPORTED", "names model-00002-of-00002.safetensors, which is not there (1 of 2 files"),
    "empty": (content(b""), "MODEL_FORMAT_UNSUPPORTED", "model.safetensors is no safetensors file, or was cut off; fetch the model anew"),
    "pointer": (content(LFS), "MODEL_FORMAT_UNSUPPORTED", "is a pointer of Git LFS and not the file itself: get that with `git lfs pull`"),
    "page": (content(b"<html>sign in</html>"), "MODEL_FORMAT_UNSUPPORTED", "model.safetensors is no safetensors file"),
    "index": (lambda model: (model / "model.safetensors.index.json").write_text("[]"), "MODEL_FORMAT_UNSUPPORTED", "is no index of weights"),
    "config of words": (lambda model: rewrite(model / "config.json", hidden_size="large"), "MODEL_FORMAT_UNSUPPORTED", "'hidden_size' expected int, got str"),
    "T5": (lambda model: rewrite(model / "config.json", model_type="t5"), "MODEL_FORMAT_UNSUPPORTED", "AutoModelForCausalLM.; fetch it anew, or name a language model of"),
    "link": (a_link_to_nothing, "MODEL_FORMAT_UNSUPPORTED", "model.safetensors is no file (a link to nothing, or a directory); fetch the model anew"),
    "no heads": (configured(num_attention_heads=0), "MODEL_FORMAT_UNSUPPORTED", "it cannot be loaded: ZeroDivisionError"),
    "padding": (configured(pad_token_id=10**8), "MODEL_FORMAT_UNSUPPORTED", "it cannot be loaded: AssertionError"),
    "vocabulary": (configured(vocab_size=10**5), "MODEL_FORMAT_UNSUPPORTED", " is 100000 x 48, and in its files 400 x 48 (2 weights differ): put the config.json and the weights of"),
    "fewer blocks": (configured(num_hidden_layers=1), "MODEL_FORMAT_UNSUPPORTED", "its files have model.layers.1.input_layernorm.weight, of which its config.json knows nothing"),
    "no positions": (configured(max_position_embeddings=-1), "MODEL_FORMAT_UNSUPPORTED", "it was made for -1 tokens, and 8 are the least"),
    "no fast tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "MODEL_FORMAT_UNSUPPORTED", "put the tokenizer.json that it was trained with beside it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_cannot_be_trained_says_what_would_help(tmp_path: Path, tiny_model: Path, case: str):
    spoil, reason, words = BAD_MODELS[case]
    shutil.copytree(tiny_model, tmp_path / "model")
    spoil(tmp_path / "model")
    attempt = Attempt(tmp_path, tmp_path / "model")
    attempt.assign(tuning_parameters={"max_steps": 1})
    got, message = failed_with(attempt)
    assert got == reason, message
    assert message.startswith(MODEL)
    assert words in message
    assert not attempt.said("progressed")


def test_a_model_with_nan_is_found_by_the_evaluation_before_training_too(tmp_path: Path, tiny_model: Path):
    shutil.copytree(tiny_model, tmp_path / "model")
    not_a_number(tmp_path / "model")
    attempt = Attempt(tmp_path, tmp_path / "model")
    attempt.assign(tuning_parameters={"max_steps": 1, "eval_fraction": 0.2})
    reason, message = failed_with(attempt)
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert "hold NaN or infinity" in message


def test_a_model_that_does_not_say_for_how_many_tokens_it_was_made_is_trained(tmp_path: Path, tiny_model: Path):
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["max_position_embeddings"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    attempt = Attempt(tmp_path, tmp_path / "model")
    attempt.assign(tuning_parameters={"max_steps": 1, "max_sequence_length": 16})
    assert attempt.run() == 0, attempt.reports[-1]


def test_a_rank_that_no_layer_is_as_wide_as_is_told(attempt: Attempt):
    attempt.assign(customization={"rank": 40}, tuning_parameters={"max_steps": 1})
    assert attempt.run() == 0, attempt.reports[-1]
    [told] = [each["message"] for each in attempt.said("warning") if each["reason"] == "RANK_ABOVE_WIDTH"]
    assert told.startswith(
        "customization.rank: 40 is more than 24, the width of model.layers.0.self_attn.v_proj (2 of 4 "
    )


@pytest.mark.parametrize("tuning", [{"eval_fraction": 0.2}, {}], ids=["evaluated", "trained"])
def test_dora_of_weights_without_a_length_blames_neither_rows_nor_rate(tmp_path: Path, tuning: dict[str, Any]):
    """The head is the embeddings, and the padding token's are 0."""
    attempt = Attempt(tmp_path, write_tiny_model(tmp_path / "tied", tied=True))
    attempt.assign(
        customization={"method": "dora", "target_modules": ["lm_head"]}, tuning_parameters={"max_steps": 1, **tuning}
    )
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith("customization.target_modules: the weights of 1 outputs of lm_head are all 0")


@pytest.mark.parametrize("beginning", ["pissa", "olora"])
def test_a_rank_that_an_adapter_cannot_begin_with_is_refused_before_it_is_trained(attempt: Attempt, beginning: str):
    attempt.assign(
        customization={"rank": 40, "peft": {"config": {"init_lora_weights": beginning}}},
        tuning_parameters={"max_steps": 1},
    )
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith("customization.rank: 40 is more than 24, the width of model.layers.0.self_attn.v_proj ")
    assert message.endswith(
        f"`{beginning}` takes as many parts out of a weight; lower it to 24 at most, or begin otherwise"
    )
    assert not attempt.said("progress")


# Datasets


def zipped(name: str) -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr(name, LINES)
    return into.getvalue()


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "gzip": ("rows.jsonl.gz", gzip.compress(LINES), "is compressed with gzip: unpack it first"),
    "gzip by content": ("a.csv", gzip.compress(LINES), "is compressed with gzip: unpack it first"),
    "zip": ("a.zip", zipped("rows.jsonl"), "is a zip archive or a spreadsheet: unpack it, or save its table as CSV"),
    "spreadsheet": ("a.xlsx", zipped("xl/workbook.xml"), "is a zip archive or a spreadsheet"),
    "UTF-16 lines": ("a.jsonl", LINES.decode().encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "UTF-16 table": ("a.csv", "prompt,completion\na,b\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "UTF-16 text": ("a.txt", "Hello.\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "page": ("a.jsonl", b"\n<!DOCTYPE html>\n<html>sign in</html>", "is a web page, perhaps of a login: name the address"),
    "pointer": ("a.parquet", LFS, "is a pointer of Git LFS and not the file itself: get that with `git lfs pull`"),
    "Parquet": ("a.jsonl", b"PAR1\x15\x04\n", "is a Parquet file and not of format jsonl: say format parquet"),
    "array": ("a.jsonl", json.dumps(QUESTIONS).encode(), "is an array of JSON and not an object on each line: say format json"),
    "array in lines": ("a.jsonl", json.dumps(QUESTIONS, indent=1).encode(), "is an array of JSON and not an object on each line: say format json"),
    "PDF": ("a.txt", b"%PDF-1.7\n", "is a PDF: write its text to a file of format text"),
    "database": ("a.jsonl", b"SQLite format 3\x00", "is an SQLite database: write its rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_of_another_kind_is_told_as_what_it_is(attempt: Attempt, case: str):
    name, data, words = BAD_FILES[case]
    (attempt.directory / name).write_bytes(data)
    attempt.assign(datasets=[{"source": (attempt.directory / name).as_uri()}])
    reason, message = failed_with(attempt)
    assert reason == "DATASET_INVALID"
    assert message.startswith(f"datasets[0].source: {attempt.directory / name} {words}"), message


def test_a_text_may_be_about_pages(attempt: Attempt):
    (attempt.directory / "a.txt").write_text("<html> is how a page begins.\n")
    attempt.assign(datasets=[{"source": (attempt.directory / "a.txt").as_uri()}], tuning_parameters={"max_steps": 1})
    assert attempt.run() == 0, attempt.reports[-1]


def test_a_column_that_is_not_there_is_named(attempt: Attempt):
    source = attempt.dataset([{"question": "a", "answer": "b"}], "a.jsonl")
    attempt.assign(datasets=[{"source": source, "columns": {"prompt": "query", "completion": "answer"}}])
    reason, message = failed_with(attempt)
    assert reason == "DATASET_INVALID"
    assert message.endswith("field query (datasets[0].columns.prompt) is missing; the row has answer, question")


# Configuration


def test_a_chat_template_that_is_none_is_not_the_rows_fault(attempt: Attempt):
    attempt.assign(rows=TALK, tuning_parameters={"chat_template": "{{ bos }}\n{% for x in %}"})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith("tuning_parameters.chat_template: line 2 is not Jinja: ")


def test_a_model_s_own_chat_template_that_is_none_says_what_to_set(tmp_path: Path, tiny_model: Path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{% if %}")
    attempt = Attempt(tmp_path, tmp_path / "model")
    attempt.assign(rows=TALK, tuning_parameters={"max_steps": 1})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith(f"{MODEL}its chat template: line 1 is not Jinja: ")
    assert message.endswith("set tuning_parameters.chat_template")


# Disks

LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
os.execv(sys.executable, [sys.executable, "-m", "agent.trainer", sys.argv[1]])
"""


def test_a_disk_that_is_full_at_a_checkpoint_says_what_would_help(attempt: Attempt):
    """A file may have so many bytes: those of the reports and the tokens fit, those of a checkpoint do not."""
    attempt.assign(
        customization={"rank": 32}, tuning_parameters={"checkpoint_steps": 1, "max_steps": 3, "batch_size": 4}
    )
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(attempt.directory), "24000"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRAINPLANE_FAILPOINT": ""},
        cwd=attempt.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    failed = attempt.reports[-1]
    assert failed["reason"] == "DISK_FULL", failed
    assert failed["message"].startswith("the node's disk is full: ")
    assert "keep fewer checkpoints (tuning_parameters.checkpoint_limit)" in failed["message"]
