"""What a row of a dataset can say, and which field of it is wrong.

A dataset has one kind of row, told by its first: `messages`, else `prompt` + `completion`, else `instruction`
+ `output`, else `text`; fields beyond these are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import DatasetInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.trainer.assignment import DatasetSource

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
    """Trained on the assistant's turns only."""

    messages: Sequence[Mapping[str, Any]]


Content = Text | Completion | Instruction | Conversation


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one dataset; `where` names it in messages: `datasets[0].source: row 7 of /data/a.jsonl`."""

    where: str
    content: Content


def fingerprint(content: Content) -> bytes:
    """The same for rows that say the same, different for others."""
    return sha256(repr(content).encode("utf-8", "surrogatepass")).digest()[:FINGERPRINT_BYTES]


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

OPTIONAL_FIELDS = ("input",)
FIELD_NAMES = frozenset(name for names in KINDS.values() for name in names) | frozenset(OPTIONAL_FIELDS)


def kind_of(source: DatasetSource, where: str, record: Mapping[str, Any]) -> str:
    """The kind of a record, one of KINDS.

    Raises:
        DatasetInvalid: it is of none.
    """
    for kind, names in KINDS.items():
        if all(source.columns.get(name, name) in record for name in names):
            return kind
    wrong = [name for name, column in source.columns.items() if column not in record]
    maps = (
        f"{source.path}.columns.{wrong[0]} names {source.columns[wrong[0]]}, which is not there"
        if wrong
        else f"{source.path}.columns maps other names"
    )
    raise DatasetInvalid(
        f"{where} has the fields {', '.join(sorted(record)) or 'none'}; a row needs text, prompt and completion, "
        f"instruction and output, or messages ({maps})"
    )


@dataclass(frozen=True, slots=True)
class RowFields:
    """A row's fields by our names. Each is asked for by what it must be, and DatasetInvalid says what it is instead."""

    where: str
    record: Mapping[str, Any]
    columns: Mapping[str, str]

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self.value(name)
        if not isinstance(value, str):
            raise DatasetInvalid(f"{self.where}: {self._named(name)} must be a string, got {type(value).__name__}")
        return self._encodable(name, value)

    def optional_text(self, name: str) -> str:
        """A string; empty where there is none."""
        return self.text(name) if self.record.get(self.columns.get(name, name)) is not None else ""

    def value(self, name: str) -> Any:
        """Whatever it is, it must be there."""
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


def _conversation(fields: RowFields) -> Conversation:
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


BUILDERS: dict[str, Callable[[RowFields], Content]] = {
    "messages": _conversation,
    "completion": lambda fields: Completion(fields.text("prompt"), fields.text("completion")),
    "instruction": lambda fields: Instruction(
        fields.text("instruction"), fields.optional_text("input"), fields.text("output")
    ),
    "text": lambda fields: Text(fields.text("text")),
}
"""Kind -> what makes its content of a row's fields."""
