"""What a row of a dataset can say, and which field of it is wrong.

A dataset has one kind of row: that of the fields which its `columns` maps, else told by its first row: `messages`, else
`prompt` + `completion`, else `instruction` + `output`, else `text`; fields beyond these are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from agent.trainer.data.tools import COLUMN, called, offered
from agent.trainer.failures import ConfigInvalid, DatasetInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.trainer.assignment import DatasetSource
    from agent.trainer.data.formats import Record

FINGERPRINT_BYTES = 16

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
    """Trained on the assistant's turns only; those may call tools (`tools.py`)."""

    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Mapping[str, Any], ...] = ()
    """That the model is told of."""


Content = Text | Completion | Instruction | Conversation


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one dataset; `where` names it in messages: `datasets[0].source: row 7 of /data/a.jsonl`."""

    where: str
    content: Content


def fingerprint(content: Content) -> bytes:
    """The same for rows that say the same, different for others."""
    said = repr(content)
    if isinstance(content, Conversation) and not content.tools:
        said = f"Conversation(messages={content.messages!r})"  # as ever: what is held out goes by it
    return sha256(said.encode("utf-8", "surrogatepass")).digest()[:FINGERPRINT_BYTES]


def held_out_key(content: bytes, seed: int) -> int:
    """A row's place in the order in which rows are held out, by its fingerprint: 64 bits."""
    return int.from_bytes(sha256(b"%d/%b" % (seed, content)).digest()[:8], "big")


KINDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
"""Kind -> the fields that a row of it must have; the order is the precedence."""

OPTIONAL_FIELDS = {"input": "instruction"}
"""Field -> the kind of the rows that may have it."""

KIND_OF_FIELD = {name: kind for kind, names in KINDS.items() for name in names} | OPTIONAL_FIELDS
FIELD_NAMES = frozenset(KIND_OF_FIELD)


def mapped_kind(source: DatasetSource) -> str:
    """The kind of row that `columns` speaks of; empty: it maps nothing.

    Raises:
        ConfigInvalid: a name of it is no field, or its names are of different kinds.
    """
    kind = ""
    for name in source.columns:
        if name not in FIELD_NAMES:
            raise ConfigInvalid(
                f"{source.path}.columns.{name}: no such field; there are {', '.join(sorted(FIELD_NAMES))}"
            )
        kind = kind or KIND_OF_FIELD[name]
        if KIND_OF_FIELD[name] != kind:
            raise ConfigInvalid(
                f"{source.path}.columns.{name}: cannot be mapped together with {next(iter(source.columns))}: they are "
                "fields of different kinds of rows, and a dataset has one; leave one of them out"
            )
    return kind


def kind_of(source: DatasetSource, where: str, record: Record) -> str:
    """The kind of a record, one of KINDS, where `columns` maps nothing.

    Raises:
        DatasetInvalid: it is of none.
    """
    for kind, names in KINDS.items():
        if all(name in record.fields for name in names):
            return kind
    raise DatasetInvalid(
        f"{where} has the fields {record.names}; a row needs text, prompt and completion, "
        f"instruction and output, or messages ({source.path}.columns maps other names)"
    )


@dataclass(frozen=True, slots=True)
class RowFields:
    """A row's fields by our names. Each is asked for by what it must be, and DatasetInvalid says what it is instead."""

    where: str
    record: Record
    source: DatasetSource

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self.value(name)
        if not isinstance(value, str):
            raise DatasetInvalid(f"{self.where}: {self.named(name)} must be a string, got {type(value).__name__}")
        return self._encodable(name, value)

    def optional_text(self, name: str) -> str:
        """A string; empty where there is none."""
        return self.text(name) if self.record.fields.get(self._column(name)) is not None else ""

    def value(self, name: str) -> Any:
        """Whatever it is, it must be there."""
        column = self._column(name)
        if column not in self.record.fields:
            raise DatasetInvalid(f"{self.where}: {self.named(name)} is missing; the row has {self.record.names}")
        return self.record.fields[column]

    def named(self, name: str) -> str:
        """What messages call the field."""
        mapped = f" ({self.source.path}.columns.{name})" if name in self.source.columns else ""
        return f"field {self._column(name)}{mapped}"

    def _column(self, name: str) -> str:
        return self.source.columns.get(name, name)

    def _encodable(self, name: str, value: str) -> str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DatasetInvalid(f"{self.where}: {self.named(name)} holds a lone surrogate") from error
        return value


def _conversation(fields: RowFields) -> Conversation:
    messages = fields.value("messages")
    if not isinstance(messages, list) or not messages:
        raise DatasetInvalid(f"{fields.where}: {fields.named('messages')} must be a list that is not empty")
    for index, message in enumerate(messages):
        where = f"{fields.where}: messages[{index}]"
        if not isinstance(message, dict):
            raise DatasetInvalid(f"{where} must be an object with role and content")
        if message.get("role") not in ROLES:
            raise DatasetInvalid(f"{where}.role must be one of {', '.join(sorted(ROLES))}, got {message.get('role')!r}")
        if not (
            isinstance(message.get("content"), str) or (message.get("tool_calls") and message.get("content") is None)
        ):
            raise DatasetInvalid(f"{where}.content must be a string, got {type(message.get('content')).__name__}")
    if not any(message["role"] == "assistant" for message in messages):
        raise DatasetInvalid(f"{fields.where}: messages has no turn of the assistant to learn from")
    said = [called(f"{fields.where}: messages[{index}]", message) for index, message in enumerate(messages)]
    return Conversation(said, offered(fields.where, fields.record.fields.get(COLUMN)))


BUILDERS: dict[str, Callable[[RowFields], Content]] = {
    "messages": _conversation,
    "completion": lambda fields: Completion(fields.text("prompt"), fields.text("completion")),
    "instruction": lambda fields: Instruction(
        fields.text("instruction"), fields.optional_text("input"), fields.text("output")
    ),
    "text": lambda fields: Text(fields.text("text")),
}
"""Kind -> what makes its content of a row's fields."""
