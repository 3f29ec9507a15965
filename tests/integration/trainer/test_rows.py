"""Reading datasets: every broken file is told by file, row and field."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from agent.trainer.assignment import DatasetSource
from agent.trainer.data.dataset import read_dataset
from agent.trainer.data.rows import Completion, Conversation, Instruction, Text
from agent.trainer.failures import (
    ConfigInvalid,
    DatasetEmpty,
    DatasetInvalid,
    StorageDenied,
    TrainingFailure,
)

if TYPE_CHECKING:
    from pathlib import Path

    from agent.trainer.data.dataset import Dataset


def read(path: Path, content: bytes | list[Any], **columns: str) -> Dataset:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content).encode()
    path.write_bytes(content)
    return read_dataset(DatasetSource(index=3, source=path.as_uri(), columns=columns))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows with space é.jsonl"


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"text": "a", "id": 1}, Text("a")),
        ({"prompt": "a", "completion": "b"}, Completion("a", "b")),
        ({"instruction": "a", "output": "b"}, Instruction("a", "", "b")),
        ({"instruction": "a", "input": None, "output": "b"}, Instruction("a", "", "b")),
        ({"instruction": "a", "input": "c", "output": "b"}, Instruction("a", "c", "b")),
        ({"messages": [{"role": "assistant", "content": "b"}]}, Conversation([{"role": "assistant", "content": "b"}])),
        ({"text": "x", "prompt": "a", "completion": "b"}, Completion("a", "b")),
    ],
)  # fmt: skip
def test_each_kind_of_row_is_known_by_its_fields(file: Path, row: dict[str, Any], content: object):
    dataset = read(file, [row])
    assert [row.content for row in dataset.rows] == [content]


def test_columns_map_our_names_to_the_file_s(file: Path):
    dataset = read(file, [{"q": "a", "a": "b"}], prompt="q", completion="a")
    assert next(iter(dataset.rows)).content == Completion("a", "b")


def test_blank_lines_a_byte_order_mark_and_carriage_returns_are_no_errors(file: Path):
    dataset = read(file, b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert [row.content for row in dataset.rows] == [Text("a"), Text("b")]
    assert list(dataset.rows)[1].where == f"datasets[3].source: row 4 of {file}"


def test_the_digest_is_that_of_the_file(file: Path):
    dataset = read(file, [{"text": "a"}])
    assert dataset.sha256 == sha256(file.read_bytes()).hexdigest()
    assert dataset.size_bytes == file.stat().st_size


ROW = '{"prompt": "a", "completion": "b"}\n'
BROKEN = {
    "not JSON": (ROW + "{'prompt': 1}\n", "row 2 of .* is not JSON"),
    "cut off": (ROW + '{"prompt": "a", "comp', "row 2 of .* is not JSON"),
    "not UTF-8": (ROW.encode() + b'{"prompt": "\xff"}', r"row 2 of .* is not UTF-8 \(byte 12\)"),
    "UTF-16": (ROW.encode("utf-16-le"), "row 1 of .*"),
    "a list": (ROW + "[1, 2]", "row 2 of .* is not a JSON object but list"),
    "a number": ("5", "row 1 of .* is not a JSON object but int"),
    "nested too deep": ("[" * 100_000, "row 1 of .* is not JSON"),
    "missing": (ROW * 6 + '{"prompt": "a", "text": "b"}', "row 7 of .*: field completion is missing; the row has prompt, text"),
    "not a string": (ROW + '{"prompt": "a", "completion": 5}', "row 2 of .*: field completion must be a string, got int"),
    "null": (ROW + '{"prompt": null, "completion": "b"}', "row 2 of .*: field prompt must be a string, got NoneType"),
    "surrogate": (ROW + '{"prompt": "\\ud800", "completion": "b"}', "row 2 of .*: field prompt holds a lone surrogate"),
    "unknown": ('{"question": "a", "answer": "b"}', r"row 1 of .* has the fields answer, question; a row needs .*datasets\[3\]\.columns"),
    "another kind": (ROW + '{"text": "b"}', "row 2 of .*: field prompt is missing"),
    "messages no list": ('{"messages": "hi"}', "row 1 of .*: field messages must be a list"),
    "messages empty": ('{"messages": []}', "row 1 of .*: field messages must be a list that is not empty"),
    "message no object": ('{"messages": ["hi"]}', r"row 1 of .*: messages\[0\] must be an object"),
    "no role": ('{"messages": [{"content": "hi"}]}', r"row 1 of .*: messages\[0\]\.role must be one of"),
    "unknown role": ('{"messages": [{"role": "robot", "content": "hi"}]}', r"messages\[0\]\.role must be one of .*, got 'robot'"),
    "content in parts": ('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', r"messages\[0\]\.content must be a string, got list"),
    "no assistant": ('{"messages": [{"role": "user", "content": "hi"}]}', "row 1 of .*: messages has no turn of the assistant"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_told_by_its_number(file: Path, case: str):
    content, words = BROKEN[case]
    with pytest.raises(DatasetInvalid, match=rf"^datasets\[3\]\.source: .*{words}") as caught:
        read(file, content.encode() if isinstance(content, str) else content)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_empty(file: Path, content: bytes):
    with pytest.raises(DatasetEmpty, match="has no rows"):
        read(file, content)


@pytest.mark.parametrize(
    ("source", "failure", "words"),
    [
        ("file:///nowhere/a.jsonl", DatasetInvalid, "there is no file /nowhere/a.jsonl"),
        ("file:///tmp", DatasetInvalid, "is a directory"),
        ("s3://bucket/a.jsonl", ConfigInvalid, "was not fetched to this node"),
        ("https://example.com/a.jsonl", ConfigInvalid, "was not fetched to this node"),
        ("hf:owner/name@main", ConfigInvalid, "was not fetched to this node"),
        ("file://host/a.jsonl", ConfigInvalid, "absolute path"),
        ("/data/a.jsonl", ConfigInvalid, "absolute path"),
        ("file:///a%00b", ConfigInvalid, "NUL"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(source: str, failure: type[TrainingFailure], words: str):
    with pytest.raises(failure, match=words) as caught:
        read_dataset(DatasetSource(index=1, source=source))
    assert str(caught.value).startswith("datasets[1].source: ")


def test_columns_must_name_fields_that_there_are(file: Path):
    with pytest.raises(ConfigInvalid, match=r"^datasets\[3\]\.columns\.promt: no such field"):
        read(file, [{"q": "a"}], promt="q")


TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "columns", "content"),
    [
        ({"body": "x", "prompt": "a", "completion": "b"}, {"text": "body"}, Text("x")),
        ({"text": "x", "prompt": "a", "completion": "b"}, {"text": "text"}, Text("x")),
        ({"q": "a", "completion": "b", "messages": TALK}, {"prompt": "q"}, Completion("a", "b")),
        ({"conv": TALK, "prompt": "a", "completion": "b"}, {"messages": "conv"}, Conversation(TALK)),
        ({"instruction": "a", "ctx": "c", "output": "b", "text": "x"}, {"input": "ctx"}, Instruction("a", "c", "b")),
        ({"instruction": "a", "ctx": None, "output": "b"}, {"input": "ctx"}, Instruction("a", "", "b")),
    ],
)  # fmt: skip
def test_the_kind_of_a_mapped_field_wins(file: Path, row: dict[str, Any], columns: dict[str, str], content: object):
    dataset = read(file, [row], **columns)
    assert [row.content for row in dataset.rows] == [content]


@pytest.mark.parametrize(
    ("row", "columns", "words"),
    [
        ({"q": "a"}, {"prompt": "q", "completion": "a"}, r"field a \(COLUMNS\.completion\) is missing; the row has q"),
        ({"text": "x", "c2": "b"}, {"prompt": "nope", "completion": "c2"}, r"field nope \(COLUMNS\.prompt\) is missing; the row has c2, text"),
        ({"text": "x"}, {"messages": "conv"}, r"field conv \(COLUMNS\.messages\) is missing; the row has text"),
        ({"body": 5, "text": "x"}, {"text": "body"}, r"field body \(COLUMNS\.text\) must be a string, got int"),
        ({"conv": "hi"}, {"messages": "conv"}, r"field conv \(COLUMNS\.messages\) must be a list that is not empty"),
        ({"q": "a", "text": "x"}, {"prompt": "q"}, "field completion is missing; the row has q, text"),
    ],
)  # fmt: skip
def test_a_mapped_column_that_is_not_there_is_named_with_its_mapping_and_with_those_that_are(
    file: Path, row: dict[str, Any], columns: dict[str, str], words: str
):
    words = words.replace("COLUMNS", r"datasets\[3\]\.columns")
    with pytest.raises(DatasetInvalid, match=f"row 1 of .*: {words}"):
        read(file, [row], **columns)


def test_a_mapped_column_may_be_absent_from_some_rows_only_if_it_is_optional(file: Path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "ctx": "c"}]
    assert [row.content.input for row in read(file, rows, input="ctx").rows] == ["", "c"]
    words = r"^datasets\[3\]\.columns\.input: no row of .* has a field cxt; the first has instruction, output$"
    with pytest.raises(DatasetInvalid, match=words):
        read(file, rows, input="cxt")


def test_columns_of_two_kinds_of_rows_contradict_each_other(file: Path):
    with pytest.raises(ConfigInvalid, match=r"^datasets\[3\]\.columns\.messages: .* with text: .* different kinds"):
        read(file, [{"body": "a", "conv": TALK}], text="body", messages="conv")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_a_file_that_may_not_be_read_is_denied(file: Path):
    file.write_text(ROW)
    file.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises((StorageDenied, DatasetInvalid)) as caught:
            read_dataset(DatasetSource(index=0, source=file.as_uri()))
    finally:
        os.seteuid(0)
    assert caught.value.reason == "STORAGE_DENIED"
