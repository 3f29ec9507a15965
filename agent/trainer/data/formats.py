"""From a file's bytes to records: one reader for each of `datasets[].format`.

* `jsonl`: a JSON object a line; blank lines are passed over and counted.
* `json`: one array of objects, or `{"data": [...]}`.
* `csv`: RFC 4180 with a header; every value is a string.
* `parquet`: rows of its columns, lists and structs as lists and objects.
* `text`: every paragraph is a record with the field `text`; blank lines stand between paragraphs.

A record's number is that of the line it begins at, from 1, where the format has lines that people look at; for `json`
and `parquet` it is the place among the records, from 1.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import DatasetInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
"""What a source without `format` is taken for; any other suffix: jsonl."""

_LONGEST_VALUE = 2**31 - 1
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One record, or what is wrong with it."""

    number: int
    fields: Mapping[str, Any]
    wrong: str = ""
    """In words that go on after `row 7 of FILE`; empty: nothing."""


def format_of(name: str) -> str:
    """The format that a file's name says."""
    return SUFFIXES.get(PurePosixPath(name).suffix.lower(), "jsonl")


def records(name: str, content: bytes, *, wanted: Collection[str], shown: str) -> Iterator[Record]:
    """The records of a file, in order; a broken one is told, and the next follows.

    Args:
        name: of the format.
        content: the file's bytes.
        wanted: the fields that training knows; a format with columns leaves out all others.
        shown: what messages call the file, with the spec's field before it.

    Raises:
        DatasetInvalid: the file as a whole is not of the format.
    """
    return READERS[name](content, wanted, shown)


def _jsonl(content: bytes, _wanted: Collection[str], _shown: str) -> Iterator[Record]:
    for number, line in enumerate(_without_mark(content).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield Record(number, {}, f"is not UTF-8 (byte {error.start})")
        except (ValueError, RecursionError) as error:
            yield Record(number, {}, f"is not JSON: {error}")
        else:
            yield _object(number, value)


def _json(content: bytes, _wanted: Collection[str], shown: str) -> Iterator[Record]:
    try:
        value = json.loads(_text_of(content, shown))
    except json.JSONDecodeError as error:
        remedy = "; an object on each line is format jsonl" if error.msg == "Extra data" else ""
        raise DatasetInvalid(f"{shown} is not JSON: {error}{remedy}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetInvalid(f"{shown} is not JSON: {error}") from error
    if isinstance(value, dict):
        value = value.get("data")
    if not isinstance(value, list):
        raise DatasetInvalid(f'{shown} must hold an array of objects, or {{"data": [...]}}')
    for number, item in enumerate(value, start=1):
        yield _object(number, item)


def _object(number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(number, value)
    return Record(number, {}, f"is not a JSON object but {type(value).__name__}")


def _csv(content: bytes, _wanted: Collection[str], shown: str) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_VALUE)
    reader = csv.reader(io.StringIO(_text_of(content, shown), newline=""), strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # Where a quote is not closed, nothing after it can be told apart.
            yield Record(number, {}, f"is not CSV: {error}; a quote within quotes is written twice")
            return
        if not values:
            continue
        if header is None:
            header = _header(values, shown)
        elif len(values) == len(header):
            yield Record(number, dict(zip(header, values, strict=True)))
        else:
            wrong = f"has {len(values)} values and the header has {len(header)} names; quote values that hold a comma"
            yield Record(number, {}, wrong)


def _header(names: list[str], shown: str) -> list[str]:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetInvalid(f"{shown}: the header has the name {twice or 'of no characters'} twice")
    return names


def _parquet(content: bytes, wanted: Collection[str], shown: str) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        known = [name for name in file.schema_arrow.names if name in wanted]
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=known or None):
            for fields in batch.to_pylist():
                number += 1
                yield Record(number, {name: _as_written(value) for name, value in fields.items()})
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetInvalid(f"{shown} is not a Parquet file that can be read: {error}") from error


def _as_written(value: Any) -> Any:
    """A list of structs without the fields that only other structs of it have: Parquet fills them in with nulls."""
    if not isinstance(value, list):
        return value
    return [
        {name: part for name, part in item.items() if part is not None} if isinstance(item, dict) else item
        for item in value
    ]


def _text(content: bytes, _wanted: Collection[str], shown: str) -> Iterator[Record]:
    paragraph: list[str] = []
    first = 1
    for number, line in enumerate((*_text_of(content, shown).splitlines(), ""), start=1):
        if line.strip():
            first = first if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield Record(first, {"text": "\n".join(paragraph)})
            paragraph = []


def _text_of(content: bytes, shown: str) -> str:
    try:
        return _without_mark(content).decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetInvalid(f"{shown} is not UTF-8 at line {line} (byte {error.start} of the file)") from error


def _without_mark(content: bytes) -> bytes:
    """Without a byte order mark, which editors of one system write."""
    return content.removeprefix(b"\xef\xbb\xbf")


READERS: dict[str, Callable[[bytes, Collection[str], str], Iterator[Record]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
}
