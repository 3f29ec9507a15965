"""The trainer's reader on datasets' beginnings: a process of its own, without torch, in the trainer's own words."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ROW = b'{"prompt": "What is one and one?", "completion": " Two."}\n'


def sampled(path: Path, *, size_bytes: int, tokenizer: str = "", **tuning: Any) -> dict[str, Any]:
    asked = {
        "spec": {"datasets": [{"source": "s3://bucket/rows"}], "tuning_parameters": tuning},
        "tokenizer": tokenizer,
        "datasets": [{"index": 0, "path": str(path), "size_bytes": size_bytes}],
    }
    command = [sys.executable, "-X", "importtime", "-m", "agent.trainer.sample"]
    ran = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, check=True)
    assert b" torch\n" not in ran.stderr
    return dict(json.loads(ran.stdout)["0"])


def test_rows_of_a_sample_stand_for_the_whole_and_the_row_that_was_cut_is_none(tmp_path: Path) -> None:
    path = tmp_path / "0-rows.jsonl"
    path.write_bytes((ROW * 20)[:-7])
    found = sampled(path, size_bytes=len(ROW) * 1000)
    assert (found["outcome"], found["facts"]["rows"], found["facts"]["bytes"]) == ("PASSED", 1000, len(ROW) * 1000)


def test_tokens_are_the_model_s_own_where_its_tokenizer_can_be_read(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    path = tmp_path / "0-rows.jsonl"
    path.write_bytes(ROW * 3)
    with_it = sampled(path, size_bytes=len(ROW) * 3, tokenizer=str(tiny_model / "tokenizer.json"))["facts"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt, answer = (len(tokenizer(text)["input_ids"]) for text in ("What is one and one?", " Two."))
    assert (with_it["rows"], with_it["tokens"], with_it["longest"]) == (3, prompt + answer + 1, prompt + answer + 1)
    assert with_it["share"] == pytest.approx((answer + 1) / (prompt + answer + 1))
    (tmp_path / "broken.json").write_text("{}")
    without = sampled(path, size_bytes=len(ROW) * 3, tokenizer=str(tmp_path / "broken.json"))["facts"]
    assert without["tokens"] == round(20 / 4) + round(5 / 4) + 1


def test_rows_that_are_left_out_for_their_length_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "0-rows.jsonl"
    long = b'{"prompt": "' + b"What is one and one? " * 50 + b'", "completion": " Two."}\n'
    path.write_bytes((ROW + long) * 10)
    size = 100 * path.stat().st_size
    cut = sampled(path, size_bytes=size, truncation="right", max_sequence_length=64)["facts"]
    dropped = sampled(path, size_bytes=size, truncation="drop", max_sequence_length=64)["facts"]
    assert (cut["rows"], dropped["rows"]) == (2000, 1000)
    assert cut["longest"] > 64 >= dropped["longest"] == dropped["tokens"]
    none = sampled(path, size_bytes=size, truncation="drop", max_sequence_length=4)
    assert (none["outcome"], none["reason"]) == ("FAILED", "DATASET_INVALID")
    assert "raise max_sequence_length" in none["message"]


@pytest.mark.parametrize(
    ("name", "content", "reason", "said"),
    [
        ("rows.jsonl", ROW + b'{"prompt": "x"}\n', "DATASET_INVALID", "row 2 of s3://bucket/rows"),
        ("rows.jsonl", b"\n", "DATASET_EMPTY", "has no rows"),
        ("rows.csv", b"prompt,prompt\n", "DATASET_INVALID", "twice"),
        ("rows.parquet", b"PAR1", "DATASET_INVALID", "Parquet"),
    ],
)
def test_a_broken_sample_fails_in_the_words_of_the_job(
    tmp_path: Path, name: str, content: bytes, reason: str, said: str
) -> None:
    path = tmp_path / f"0-{name}"
    path.write_bytes(content)
    found = sampled(path, size_bytes=len(content))
    assert (found["outcome"], found["reason"]) == ("FAILED", reason)
    assert found["message"].startswith("datasets[0].source: ")
    assert said in found["message"]


def test_a_large_file_that_cannot_be_read_in_part_is_left_to_the_job(tmp_path: Path) -> None:
    path = tmp_path / "0-rows.json"
    path.write_bytes(b"[")
    found = sampled(path, size_bytes=50 << 20)
    assert (found["outcome"], found.get("facts")) == ("PASSED", None)
    assert "a json file of 50 MiB is not read before the job runs" in found["message"]
