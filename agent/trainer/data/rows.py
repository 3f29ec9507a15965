"""Reads jsonl datasets and says exactly which row and field is wrong.

A dataset has one kind of row, told by its first: `messages`, else `prompt` + `completion`, else `instruction`
+ `output`, else `text`; fields beyond these are left alone. Rows are numbered by their line in the file, from
1; blank lines are passed over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from agent.trainer.failures import (
    ConfigInvalid,
    DatasetEmpty,
    DatasetInvalid,
    StorageDenied,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from agent.trainer.assignment import DatasetSource

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


@dataclass(frozen=True, slots=True)
class Text:
    """Trained on as a whole."""

    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """Trained on the completion only."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """Trained on the output only; `input` may be empty."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Trained on the assistant's turns only."""

    messages: Sequence[Mapping[str, Any]]


Content = Text | Completion | Instruction | Conversation


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one dataset; `where` names it in messages: `datasets[0].source: row 7 of /data/a.jsonl`."""

    where: str
    content: Content


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that was read whole."""

    source: DatasetSource
    kind: str
    rows: Sequence[Row]
    sha256: str
    """Of the file's bytes, in hex."""
    size_bytes: int


KINDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
"""Kind -> the fields that a row of it must have; the order is the precedence."""

OPTIONAL_FIELDS = ("input",)
FIELD_NAMES = frozenset(name for names in KINDS.values() for name in names) | frozenset(OPTIONAL_FIELDS)


def read_dataset(source: DatasetSource) -> Dataset:
    """Read and check every row.

    Raises:
        DatasetInvalid, DatasetEmpty, StorageDenied: with file, row and field.
        ConfigInvalid, NotYetSupported: the source's URI or `columns` is no good.
    """
    path = local_path(source)
    shown = source.source if source.fetched else str(path)
    _check_columns(source)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetInvalid(f"{source.path}.source: there is no file {path} on this node") from error
    except IsADirectoryError as error:
        raise DatasetInvalid(f"{source.path}.source: {path} is a directory; name a .jsonl file") from error
    except PermissionError as error:
        raise StorageDenied(f"{source.path}.source: {path} may not be read by the trainer's user") from error
    objects = list(_objects(source, shown, content))
    if not objects:
        raise DatasetEmpty(f"{source.path}.source: {shown} has no rows")
    kind = _kind_of(source, *objects[0])
    build = BUILDERS[kind]
    rows = [Row(where, build(_Fields(where, record, source.columns))) for where, record in objects]
    return Dataset(source, kind, rows, sha256(content).hexdigest(), len(content))


def local_path(source: DatasetSource) -> Path:
    """The path of the rows on this machine: what was fetched, or what a `file://` URI names."""
    if source.fetched:
        return Path(source.fetched)
    parts = urlsplit(source.source)
    if parts.scheme in {"s3", "https", "hf"}:
        raise ConfigInvalid(f"{source.path}.source: {source.source} was not fetched to this node (no inputs.json)")
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ConfigInvalid(f"{source.path}.source: must be file:// and an absolute path, got {source.source}")
    path = unquote(parts.path)
    if "\0" in path:
        raise ConfigInvalid(f"{source.path}.source: must not contain NUL")
    return Path(path)


def _check_columns(source: DatasetSource) -> None:
    for name in source.columns:
        if name not in FIELD_NAMES:
            raise ConfigInvalid(
                f"{source.path}.columns.{name}: no such field; there are {', '.join(sorted(FIELD_NAMES))}"
            )


def _objects(source: DatasetSource, shown: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line that is not blank, as (where, object); `shown` is what messages call the file."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{source.path}.source: row {number} of {shown}"
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DatasetInvalid(f"{where} is not UTF-8 (byte {error.start})") from error
        except (ValueError, RecursionError) as error:
            raise DatasetInvalid(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise DatasetInvalid(f"{where} is not a JSON object but {type(record).__name__}")
        yield where, record


def _kind_of(source: DatasetSource, where: str, record: Mapping[str, Any]) -> str:
    for kind, names in KINDS.items():
        if all(source.columns.get(name, name) in record for name in names):
            return kind
    raise DatasetInvalid(
        f"{where} has the fields {', '.join(sorted(record)) or 'none'}; a row needs text, prompt and completion, "
        f"instruction and output, or messages ({source.path}.columns maps other names)"
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """A row's fields by our names."""

    where: str
    record: Mapping[str, Any]
    columns: Mapping[str, str]

    def text(self, name: str) -> str:
        value = self.value(name)
        if not isinstance(value, str):
            raise DatasetInvalid(f"{self.where}: {self._named(name)} must be a string, got {type(value).__name__}")
        return self._encodable(name, value)

    def optional_text(self, name: str) -> str:
        return self.text(name) if self.record.get(self.columns.get(name, name)) is not None else ""

    def value(self, name: str) -> Any:
        column = self.columns.get(name, name)
        if column not in self.record:
            found = ", ".join(sorted(self.record)) or "none"
            raise DatasetInvalid(f"{self.where}: {self._named(name)} is missing; the row has {found}")
        return self.record[column]

    def _named(self, name: str) -> str:
        column = self.columns.get(name, name)
        return f"field {column}" if column == name else f"field {column} (columns.{name})"

    def _encodable(self, name: str, value: str) -> str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DatasetInvalid(f"{self.where}: {self._named(name)} holds a lone surrogate") from error
        return value


def _conversation(fields: _Fields) -> Conversation:
    messages = fields.value("messages")
    if not isinstance(messages, list) or not messages:
        raise DatasetInvalid(f"{fields.where}: messages must be a list that is not empty")
    for index, message in enumerate(messages):
        where = f"{fields.where}: messages[{index}]"
        if not isinstance(message, dict):
            raise DatasetInvalid(f"{where} must be an object with role and content")
        if message.get("role") not in ROLES:
            raise DatasetInvalid(f"{where}.role must be one of {', '.join(sorted(ROLES))}, got {message.get('role')!r}")
        if not isinstance(message.get("content"), str):
            raise DatasetInvalid(f"{where}.content must be a string, got {type(message.get('content')).__name__}")
    if not any(message["role"] == "assistant" for message in messages):
        raise DatasetInvalid(f"{fields.where}: messages has no turn of the assistant to learn from")
    return Conversation(messages)


BUILDERS: dict[str, Callable[[_Fields], Content]] = {
    "messages": _conversation,
    "completion": lambda fields: Completion(fields.text("prompt"), fields.text("completion")),
    "instruction": lambda fields: Instruction(
        fields.text("instruction"), fields.optional_text("input"), fields.text("output")
    ),
    "text": lambda fields: Text(fields.text("text")),
}
