"""From a file to records: one reader for each of `datasets[].format`. None holds more of a file than a few records.

* `jsonl`: a JSON object a line; blank lines are passed over and counted.
* `json`: one array of objects, or `{"data": [...]}`.
* `csv`: RFC 4180 with a header; every value is a string.
* `parquet`: rows of its columns, lists and structs as lists and objects.
* `text`: every paragraph is a record with the field `text`; blank lines stand between paragraphs.

A record's number is that of the line it begins at, from 1, where the format has lines that people look at; for `json`
and `parquet` it is the place among the records, from 1.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from agent.trainer.data.json_items import NoArrayError, NotJsonError, items
from agent.trainer.failures import DatasetInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import BinaryIO, TextIO

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

_LONGEST_VALUE = 2**26
"""Characters of a value in CSV; after a quote that nobody closed, all the rest of a file would be one."""
_BATCH_ROWS = 1024
_BATCH_BYTES = 1 << 24
"""Of a Parquet file's rows that are in memory together, about."""
_BUFFER_BYTES = 1 << 20
_MARK = b"\xef\xbb\xbf"
"""A byte order mark, which editors of one system write."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record, or what is wrong with it."""

    number: int
    fields: Mapping[str, Any]
    wrong: str = ""
    """In words that go on after `row 7 of FILE`; empty: nothing."""
    left_out: tuple[str, ...] = ()
    """Names of the fields that were not read."""

    @property
    def names(self) -> str:
        """The names of all its fields, for messages."""
        return ", ".join(sorted((*self.fields, *self.left_out))) or "none"


def format_of(name: str) -> str:
    """The format that a file's name says."""
    return SUFFIXES.get(PurePosixPath(name).suffix.lower(), "jsonl")


def records(name: str, stream: BinaryIO, *, wanted: Collection[str], shown: str) -> Iterator[Record]:
    """The records of a file, in order; a broken one is told, and the next follows.

    Args:
        name: of the format.
        stream: the file, at its beginning.
        wanted: the fields that training knows; a format with columns leaves out all others.
        shown: what messages call the file, with the spec's field before it.

    Raises:
        DatasetInvalid: the file as a whole is not of the format; perhaps after some records.
    """
    return READERS[name](stream, wanted, shown)


def _jsonl(stream: BinaryIO, _wanted: Collection[str], _shown: str) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        content = line.removeprefix(_MARK) if number == 1 else line
        if not content.strip():
            continue
        try:
            value = json.loads(content.removesuffix(b"\n").decode("utf-8"))
        except UnicodeDecodeError as error:
            yield Record(number, {}, f"is not UTF-8 (byte {error.start})")
        except (ValueError, RecursionError) as error:
            yield Record(number, {}, f"is not JSON: {error}")
        else:
            yield _object(number, value)


def _json(stream: BinaryIO, _wanted: Collection[str], shown: str) -> Iterator[Record]:
    try:
        with _text_of(stream, shown) as text:
            for number, item in enumerate(items(text), start=1):
                yield _object(number, item)
    except NotJsonError as error:
        remedy = "; an object on each line is format jsonl" if error.kind == "Extra data" else ""
        raise DatasetInvalid(f"{shown} is not JSON: {error}{remedy}") from error
    except NoArrayError as error:
        raise DatasetInvalid(f'{shown} must hold an array of objects, or {{"data": [...]}}') from error
    except RecursionError as error:
        raise DatasetInvalid(f"{shown} is not JSON that can be read: {error}") from error


def _object(number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(number, value)
    return Record(number, {}, f"is not a JSON object but {type(value).__name__}")


def _csv(stream: BinaryIO, _wanted: Collection[str], shown: str) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_VALUE)
    with _text_of(stream, shown) as text:
        yield from _table(csv.reader(text, strict=True), shown)


def _table(reader: Any, shown: str) -> Iterator[Record]:
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


def _parquet(stream: BinaryIO, wanted: Collection[str], shown: str) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
        known = [name for name in file.schema_arrow.names if name in wanted]
        left_out = tuple(name for name in file.schema_arrow.names if name not in known) if known else ()
        number = 0
        for batch in file.iter_batches(_batch_rows(file), columns=known or None, use_threads=False):
            for fields in batch.to_pylist():
                number += 1
                yield Record(number, {name: _as_written(value) for name, value in fields.items()}, left_out=left_out)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetInvalid(f"{shown} is not a Parquet file that can be read: {error}") from error


def _batch_rows(file: Any) -> int:
    """As many as have _BATCH_BYTES by the file's own account."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=0.0)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1.0, largest))))


def _as_written(value: Any) -> Any:
    """A list of structs without the fields that only other structs of it have: Parquet fills them in with nulls."""
    if not isinstance(value, list):
        return value
    return [
        {name: part for name, part in item.items() if part is not None} if isinstance(item, dict) else item
        for item in value
    ]


def _text(stream: BinaryIO, _wanted: Collection[str], shown: str) -> Iterator[Record]:
    paragraph: list[str] = []
    first = 1
    with _text_of(stream, shown) as text:
        for number, line in enumerate(_lines(text), start=1):
            if line.strip():
                first = first if paragraph else number
                paragraph.append(line)
            elif paragraph:
                yield Record(first, {"text": "\n".join(paragraph)})
                paragraph = []
    if paragraph:
        yield Record(first, {"text": "\n".join(paragraph)})


def _lines(text: TextIO) -> Iterator[str]:
    """As `splitlines` has them, which knows more ends of a line than files do."""
    for line in text:
        yield from line.splitlines()


@contextmanager
def _text_of(stream: BinaryIO, shown: str) -> Iterator[TextIO]:
    """The file as text, with the ends of its lines as they are; it stays open.

    Raises:
        DatasetInvalid: it is not UTF-8, as far as it was read.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        yield text
    except UnicodeDecodeError as error:
        place, line = _not_utf8(stream)
        raise DatasetInvalid(f"{shown} is not UTF-8 at line {line} (byte {place} of the file)") from error
    finally:
        text.detach()


def _not_utf8(stream: BinaryIO) -> tuple[int, int]:
    """The first byte of a file that is not UTF-8, from 0, and its line, from 1."""
    stream.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    place, line = 0, 1
    while True:
        content = stream.read(_BUFFER_BYTES)
        waiting = len(decoder.getstate()[0])
        try:
            decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            return place - waiting + error.start, line + error.object.count(b"\n", 0, error.start)
        if not content:
            return place, line  # somebody has mended it by now
        place += len(content)
        line += content.count(b"\n")


READERS: dict[str, Callable[[BinaryIO, Collection[str], str], Iterator[Record]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
}
