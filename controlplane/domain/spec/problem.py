"""The words for what can be wrong with a field: stable reasons that clients branch on, and how a value is shown."""

from __future__ import annotations

#: (reason, description): a violation that does not know its path yet.
Problem = tuple[str, str]

# Of the body as text.
BODY_TOO_LARGE = "BODY_TOO_LARGE"
EMPTY_BODY = "EMPTY_BODY"
INVALID_JSON = "INVALID_JSON"
DUPLICATE_FIELD = "DUPLICATE_FIELD"
TOO_DEEP = "TOO_DEEP"

# Of one field.
REQUIRED = "REQUIRED"
UNKNOWN_FIELD = "UNKNOWN_FIELD"
WRONG_TYPE = "WRONG_TYPE"
OUT_OF_RANGE = "OUT_OF_RANGE"
EMPTY = "EMPTY"
TOO_LONG = "TOO_LONG"
TOO_MANY = "TOO_MANY"
DUPLICATE_VALUE = "DUPLICATE_VALUE"
UNKNOWN_VALUE = "UNKNOWN_VALUE"
MALFORMED = "MALFORMED"

# Of what is well formed.
NOT_ALLOWED = "NOT_ALLOWED"
NOT_YET_SUPPORTED = "NOT_YET_SUPPORTED"
CONTRADICTION = "CONTRADICTION"
NO_EFFECT = "NO_EFFECT"

_SHOWN = 60


def shown(value: str | float) -> str:
    """A value for a description: quoted and escaped if a text, and never much of it."""
    if isinstance(value, int) and not -(10**20) < value < 10**20:
        return "an integer of more than 20 digits"
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def step(key: str) -> str:
    """A key for a path: as it is if it is an ordinary name, else quoted, and never much of it."""
    return key if len(key) <= _SHOWN and key.isidentifier() and key.isascii() else shown(key)


_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    dict: "an object",
    list: "an array",
}


def typed(value: object) -> str:
    """A value's JSON type, in words; the value itself is not told."""
    return _TYPES.get(type(value), "no JSON value")
