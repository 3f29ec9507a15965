"""Reads datasets and says exactly which row and field is wrong.

A dataset has one kind of row, told by its first: `messages`, else `prompt` + `completion`, else `instruction`
+ `output`, else `text`; fields beyond these are left alone. `formats` says how rows are written and numbered.

A broken row ends the job, for the rows that are left would not be what the user meant to train on. All rows are looked
at first, so that the message tells how many are to be mended and where the first of them stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from agent.trainer.data.formats import format_of, records
from agent.trainer.failures import (
    ConfigInvalid,
    DatasetEmpty,
    DatasetInvalid,
    StorageDenied,
)
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.trainer.assignment import DatasetSource
    from agent.trainer.data.formats import Record

FINGERPRINT_BYTES = 16

NAMED_ROWS = 8
"""Broken rows that a message gives the numbers of."""

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
    format: str
    kind: str
    rows: Sequence[Row]
    sha256: str
    """Of the file's bytes, in hex; of several files: of their digests in hex, one after the other."""
    size_bytes: int


def fingerprint(content: Content) -> bytes:
    """The same for rows that say the same, different for others."""
    return sha256(repr(content).encode("utf-8", "surrogatepass")).digest()[:FINGERPRINT_BYTES]


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
        ConfigInvalid: the source's URI or `columns` is no good.
    """
    path = local_path(source)
    _check_columns(source)
    called = source.source if source.fetched else str(path)
    reading = _Reading(source, called)
    digests, size_bytes, form = [], 0, ""
    for file in _files(source, path):
        shown = called if file == path else f"{file.name} of {called}"
        content = _content(source, file)
        form = source.format or format_of(file.name)
        for record in records(form, content, wanted=_columns(source), shown=f"{source.path}.source: {shown}"):
            reading.take(record, shown)
            PULSE.beat()
        digests.append(sha256(content).hexdigest())
        size_bytes += len(content)
    rows = reading.finished()
    digest = digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()
    return Dataset(source, form, reading.kind, rows, digest, size_bytes)


def _files(source: DatasetSource, path: Path) -> list[Path]:
    """The files of a dataset: what was fetched may be a directory of them."""
    if source.fetched and path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    return [path]


def _content(source: DatasetSource, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetInvalid(f"{source.path}.source: there is no file {path} on this node") from error
    except IsADirectoryError as error:
        raise DatasetInvalid(f"{source.path}.source: {path} is a directory; name a file in it") from error
    except PermissionError as error:
        raise StorageDenied(f"{source.path}.source: {path} may not be read by the trainer's user") from error


class _Reading:
    """The rows of a dataset as its records come, and what is wrong with those that are none."""

    def __init__(self, source: DatasetSource, called: str) -> None:
        self.kind = ""
        self._source = source
        self._called = called
        self._rows: list[Row] = []
        self._first_wrong: DatasetInvalid | None = None
        self._wrong_rows: list[int] = []

    def take(self, record: Record, shown: str) -> None:
        """Take in a record of the file that messages call so."""
        where = f"{self._source.path}.source: row {record.number} of {shown}"
        try:
            self._rows.append(Row(where, self._content(where, record)))
        except DatasetInvalid as error:
            self._first_wrong = self._first_wrong or error
            self._wrong_rows.append(record.number)
            if not (self.kind or record.wrong):
                # Without a kind every row that follows would be wrong in the same way.
                raise

    def _content(self, where: str, record: Record) -> Content:
        if record.wrong:
            raise DatasetInvalid(f"{where} {record.wrong}")
        self.kind = self.kind or _kind_of(self._source, where, record.fields)
        return BUILDERS[self.kind](_Fields(where, record.fields, self._source.columns))

    def finished(self) -> list[Row]:
        """All rows.

        Raises:
            DatasetInvalid: some are broken.
            DatasetEmpty: there is none.
        """
        if self._first_wrong is not None:
            others = self._wrong_rows[1:]
            numbers = ", ".join(map(str, others[:NAMED_ROWS])) + (", …" if len(others) > NAMED_ROWS else "")
            more = f" ({len(others)} more broken rows: {numbers})" if others else ""
            raise DatasetInvalid(f"{self._first_wrong}{more}")
        if not self._rows:
            raise DatasetEmpty(f"{self._source.path}.source: {self._called} has no rows")
        return self._rows


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


def _columns(source: DatasetSource) -> frozenset[str]:
    """The names that the file has for the fields that training knows."""
    return frozenset(source.columns.get(name, name) for name in FIELD_NAMES)


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
