"""Every format gives the same rows, and each kind of broken file its own words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from agent.trainer.assignment import DatasetSource
from agent.trainer.data.dataset import read_dataset
from agent.trainer.data.formats import READERS, SUFFIXES, format_of
from agent.trainer.data.rows import Completion, Conversation, Instruction, Text
from agent.trainer.failures import DatasetEmpty, DatasetInvalid
from controlplane.domain.spec.fields import FIELDS

if TYPE_CHECKING:
    from pathlib import Path

    from agent.trainer.data.dataset import Dataset
    from tests.integration.trainer.attempts import Attempt

ROWS: list[dict[str, Any]] = [
    {"prompt": "Sum, of 1 and 2? ", "completion": 'It\'s "3".', "id": 1},
    {"prompt": "two\nlines ", "completion": "é", "id": 2},
]
CONTENTS = [Completion(row["prompt"], row["completion"]) for row in ROWS]


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITTEN = {
    "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "json": json.dumps(ROWS, indent=1).encode(),
    "json of a data set": json.dumps({"version": 1, "data": ROWS}).encode(),
    "csv": 'id,prompt,completion\r\n1,"Sum, of 1 and 2? ","It\'s ""3""."\r\n2,"two\nlines ",é\r\n'.encode(),
    "csv with a mark": '\ufeffprompt,completion\n"Sum, of 1 and 2? ","It\'s ""3""."\n\n"two\nlines ",é'.encode(),
    "parquet": parquet_bytes(ROWS),
}


def read(file: Path, content: bytes | str, form: str = "", **columns: str) -> Dataset:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_dataset(DatasetSource(index=3, source=file.as_uri(), format=form, columns=columns))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_rows_come_from_every_format(tmp_path: Path, name: str):
    form = name.partition(" ")[0]
    said = read(tmp_path / "rows.bin", WRITTEN[name], form)
    by_suffix = read(tmp_path / f"rows.{form.upper()}", WRITTEN[name])
    for dataset in (said, by_suffix):
        assert [row.content for row in dataset.rows] == CONTENTS
        assert (dataset.format, dataset.kind) == (form, "completion")


def test_a_paragraph_of_a_text_is_a_row_named_by_its_first_line(tmp_path: Path):
    dataset = read(tmp_path / "book.txt", "\ufeff\n\nOne\n  goes on.\r\n \n\nTwo.")
    assert [row.content for row in dataset.rows] == [Text("One\n  goes on."), Text("Two.")]
    assert [row.where.partition(": ")[2] for row in dataset.rows] == [
        f"row 3 of {tmp_path / 'book.txt'}",
        f"row 7 of {tmp_path / 'book.txt'}",
    ]


def test_conversations_of_parquet_have_no_fields_that_nobody_wrote(tmp_path: Path):
    messages = [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}]
    (row,) = read(tmp_path / "a.parquet", parquet_bytes([{"messages": messages}])).rows
    assert row.content == Conversation(messages)


def test_an_empty_cell_is_an_empty_text(tmp_path: Path):
    (row,) = read(tmp_path / "a.csv", "instruction,input,output\na,,b\n").rows
    assert row.content == Instruction("a", "", "b")


def test_columns_map_the_header(tmp_path: Path):
    for name, content in (("a.csv", b"q,a\nx,y\n"), ("a.parquet", parquet_bytes([{"q": "x", "a": "y"}]))):
        (row,) = read(tmp_path / name, content, prompt="q", completion="a").rows
        assert row.content == Completion("x", "y")


def test_a_mapped_column_that_is_not_there_is_named_with_all_that_are(tmp_path: Path):
    content = parquet_bytes([{"dialog": "x", "text": "y", "id": 1}])
    words = r"row 1 of .*: field conv \(datasets\[3\]\.columns\.messages\) is missing; the row has dialog, id, text$"
    with pytest.raises(DatasetInvalid, match=words):
        read(tmp_path / "a.parquet", content, messages="conv")


CSV = "prompt,completion\n"
BROKEN = {
    "two values": ("a.csv", CSV + "a,b\na\n", "row 3 of .* has 1 values and the header has 2 names; quote"),
    "after two lines": ("a.csv", CSV + '"a\na",b\na,b,c\n', "row 4 of .* has 3 values"),
    "open quote": ("a.csv", CSV + 'a,b\n"a,b\n', "row 3 of .* is not CSV: unexpected end of data"),
    "quote inside": ("a.csv", CSV + '"a"b,c\n', "row 2 of .* is not CSV: .*; a quote within quotes is written twice"),
    "name twice": ("a.csv", "text,text\na,b\n", "a.csv: the header has the name text twice"),
    "other names": ("a.csv", "q,a\nx,y\n", r"row 2 of .* has the fields a, q; a row needs .*datasets\[3\]\.columns"),
    "csv not UTF-8": ("a.csv", b"text\nab\nc\xff\n", r"a.csv is not UTF-8 at line 3 \(byte 9 of the file\)"),
    "object lines": ("a.json", '{"text": "a"}\n{"text": "b"}', "is not JSON: Extra data: line 2 .*; an object on each line is format jsonl"),
    "json cut off": ("a.json", '[{"text": "a"}', "a.json is not JSON: .*line 1 column"),
    "nested too deep": ("a.json", "[" * 100_000, "a.json is not JSON"),
    "no array": ("a.json", '{"rows": []}', "must hold an array of objects"),
    "array of texts": ("a.json", '[{"text": "a"}, "b"]', "row 2 of .* is not a JSON object but str"),
    "no parquet": ("a.parquet", b"PAR1 but not really", "a.parquet is not a Parquet file that can be read"),
    "cut off parquet": ("a.parquet", parquet_bytes(ROWS)[:-20], "a.parquet is not a Parquet file that can be read"),
    "null in parquet": ("a.parquet", parquet_bytes([{"text": "a"}, {"text": None}]), "row 2 of .*: field text must be a string, got NoneType"),
    "numbers": ("a.parquet", parquet_bytes([{"text": 1}]), "row 1 of .*: field text must be a string, got int"),
    "text not UTF-8": ("a.txt", b"ok\n\xff", r"a.txt is not UTF-8 at line 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_by_row_and_remedy(tmp_path: Path, case: str):
    name, content, words = BROKEN[case]
    with pytest.raises(DatasetInvalid, match=rf"^datasets\[3\]\.source: .*{words}"):
        read(tmp_path / name, content)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b""), ("a.csv", b"text\n"), ("a.json", b"[]"), ("a.txt", b" \n\n"), ("a.parquet", parquet_bytes([{"text": "a"}][:0]))],
)  # fmt: skip
def test_a_file_without_rows_is_empty(tmp_path: Path, name: str, content: bytes):
    with pytest.raises(DatasetEmpty, match="has no rows"):
        read(tmp_path / name, content)


def test_all_broken_rows_are_told_at_once(tmp_path: Path):
    lines = ['{"text": "a"}'] + ['{"text": 5}', "nonsense"] * 10
    with pytest.raises(DatasetInvalid) as caught:
        read(tmp_path / "a.jsonl", "\n".join(lines))
    message = str(caught.value)
    assert "row 2 of" in message
    assert "field text must be a string, got int" in message
    assert message.endswith("(19 more broken rows: 3, 4, 5, 6, 7, 8, 9, 10, …)")


def test_request_and_trainer_know_the_same_formats():
    (datasets,) = (field for field in FIELDS if field.name == "datasets")
    (choices,) = (field.choices for field in datasets.fields if field.name == "format")
    assert set(choices) == set(READERS)
    assert set(SUFFIXES.values()) == set(READERS)
    assert format_of("rows.bin") == "jsonl"


def test_a_table_is_trained_on(attempt: Attempt):
    file = attempt.directory / "rows.csv"
    file.write_text("prompt,completion\n" + "".join(f"What is {n}? ,It is {n}.\n" for n in range(8)))
    attempt.assign(datasets=[{"source": file.as_uri()}], tuning_parameters={"max_steps": 1})
    assert attempt.run() == 0, attempt.reports[-1]
    (source,) = attempt.provenance["datasets"]["sources"]
    assert (source["format"], source["rows"]) == ("csv", 8)
