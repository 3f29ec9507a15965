"""What the field table says about one field: a row is data, and everything else is derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controlplane.domain.spec.shapes import Shape


class Kind(Enum):
    """The JSON type of a value; `FREE` is an object whose keys somebody else knows (a backend, PEFT)."""

    TEXT = "string"
    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "boolean"
    BLOCK = "object"
    MAP = "map of strings"
    FREE = "free-form object"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One row of the table.

    Attributes:
        doc: what it means, for the reference.
        repeated: an array of such values; never empty when sent.
        default: filled in when absent; None: stays absent, unless `default_note` says how it is derived.
        default_note: the default in words, where it depends on something.
        low, high: bounds of a number, included unless `above_low` or `below_high`.
        max_length: characters of a text; of a value in a map.
        max_items: entries of an array or a map.
        choices: the words that a text may be today.
        later: words that are known and refused with NOT_YET_SUPPORTED.
        keys: the keys that a map may have; empty: any that has the shape `key_shape`.
        not_yet: the whole field is refused with NOT_YET_SUPPORTED.
        only: the one value that is supported today; any other is refused with NOT_YET_SUPPORTED.
        secret: taken out at once, sealed, never shown.
    """

    name: str
    kind: Kind
    doc: str
    repeated: bool = False
    required: bool = False
    secret: bool = False
    default: Any = None
    default_note: str = ""
    low: float | None = None
    high: float | None = None
    above_low: bool = False
    below_high: bool = False
    shape: Shape | None = None
    max_length: int = 255
    max_items: int = 1000
    choices: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    key_shape: Shape | None = None
    not_yet: bool = False
    only: Any = None
    fields: tuple[Field, ...] = ()

    def range_words(self) -> str:
        """The bounds in words: `from 1 to 1024`, `above 0 and at most 10`."""
        if self.low is None or self.high is None:
            return ""
        if not self.above_low and not self.below_high:
            return f"from {self.low} to {self.high}"
        low = f"above {self.low}" if self.above_low else f"at least {self.low}"
        high = f"below {self.high}" if self.below_high else f"at most {self.high}"
        return f"{low} and {high}"


def walk(fields: tuple[Field, ...], prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every field of a table with its path, a block before its fields; elements of arrays as `datasets[]`."""
    for field in fields:
        path = prefix + field.name
        yield path, field
        if field.kind is Kind.BLOCK:
            yield from walk(field.fields, f"{path}[]." if field.repeated else f"{path}.")
