"""The body as text: strict JSON to plain values, or one violation that says where it is not.

Python's scanner is fast and nearly strict. What it lets through (duplicate keys, NaN, numbers that no double holds) is
caught by its hooks, which know no path; so a suspect body is read a second time, by hooks that leave a mark in the tree
instead, and the mark's path is what the caller is told. A body that is right is read once.
"""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any, NoReturn

from controlplane.domain.errors import InvalidSpec, Violation
from controlplane.domain.spec import problem

MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 32

#: More digits than any integer of the request can have.
_MOST_DIGITS = 40
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_UNFIT = re.compile(r"[\x00\ud800-\udfff]")


class _SuspectError(ValueError):
    """A hook saw what the path is needed for."""


class _Mark:
    """Stands in the tree for a value that is refused."""

    def __init__(self, reason: str, description: str, *, key: str = "") -> None:
        self.reason, self.description, self.key = reason, description, key


def parse(body: bytes) -> dict[str, Any]:
    """Read a request's body.

    Returns:
        Plain dicts, lists, strings, numbers, booleans and None, at most `MAX_DEPTH` deep.

    Raises:
        InvalidSpec: with exactly one violation: of the whole body (field empty, the place by line and column), or of
            one field by its path. Nothing else is ever raised, and no value is repeated.
    """
    text = _decoded(body)
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _refuse_depth(text)
    try:
        value = _STRICT.decode(text)
    except json.JSONDecodeError as error:
        _refuse_syntax(error)
    except ValueError:  # a hook's, or that of an integer with more digits than `int` takes
        _refuse_marked(text)
    except RecursionError:
        _refuse(problem.TOO_DEEP, f"must be nested at most {MAX_DEPTH} deep")
    if value.__class__ is not dict:
        _refuse(problem.WRONG_TYPE, f"the body must be a JSON object, got {problem.typed(value)}")
    if "\\u" in text:
        _refuse_unfit(value)
    spec: dict[str, Any] = value
    return spec


def _refuse(reason: str, description: str, *, field: str = "") -> NoReturn:
    raise InvalidSpec([Violation(field, reason, description)])


def _decoded(body: bytes) -> str:
    if len(body) > MAX_BODY_BYTES:
        _refuse(problem.BODY_TOO_LARGE, f"the body must be at most {MAX_BODY_BYTES} bytes, got {len(body)}")
    if body[:3] == b"\xef\xbb\xbf":
        _refuse(problem.INVALID_JSON, "the body begins with a byte order mark; send plain UTF-8")
    if body[:2] in {b"\xff\xfe", b"\xfe\xff"} or b"\x00" in body[:2]:
        _refuse(problem.INVALID_JSON, "the body looks like UTF-16 or UTF-32; send UTF-8")
    if body[:2] == b"\x1f\x8b":
        _refuse(problem.INVALID_JSON, "the body is compressed; send it plain")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        _refuse(problem.INVALID_JSON, f"byte {error.start + 1} of the body is not UTF-8")
    if not text or text.isspace():
        _refuse(problem.EMPTY_BODY, "the body is empty; send the spec as a JSON object")
    return text


def _refuse_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        first = token.group()[0]
        depth += (first in "[{") - (first in "]}")
        if depth > MAX_DEPTH:
            line, column = _place(text, token.start())
            _refuse(
                problem.TOO_DEEP, f"must be nested at most {MAX_DEPTH} deep; line {line} column {column} goes deeper"
            )


def _place(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _refuse_syntax(error: json.JSONDecodeError) -> NoReturn:
    what = error.msg[0].lower() + error.msg[1:].removesuffix(" at").removesuffix(":")
    _refuse(problem.INVALID_JSON, f"not JSON at line {error.lineno} column {error.colno}: {what}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _SuspectError
    return fields


def _real(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise _SuspectError
    return value


def _constant(_name: str) -> NoReturn:
    raise _SuspectError


#: No hook for integers: the checkers bound them all, and `int` itself refuses thousands of digits, by a ValueError.
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_real, parse_constant=_constant)


def _refuse_marked(text: str) -> NoReturn:
    """Read once more, with marks in place of what is refused, and tell the first one's path."""
    too_big = _Mark(problem.OUT_OF_RANGE, "is a number too large for anything here")

    def unique(pairs: list[tuple[str, Any]]) -> Any:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                return _Mark(problem.DUPLICATE_FIELD, "stands twice in one object", key=key)
            fields[key] = value
        return fields

    decoder = json.JSONDecoder(
        object_pairs_hook=unique,
        parse_int=lambda digits: too_big if len(digits) > _MOST_DIGITS else int(digits),
        parse_float=lambda digits: too_big if isinf(float(digits)) else float(digits),
        parse_constant=lambda name: _Mark(problem.INVALID_JSON, f"{name} is not JSON; send a number"),
    )
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as error:
        _refuse_syntax(error)
    for path, found, _ in _walk(value, ""):
        if isinstance(found, _Mark):
            at = f"{path}.{problem.step(found.key)}" if found.key and path else path or problem.step(found.key)
            _refuse(found.reason, found.description, field=at)
    raise AssertionError("a suspect body has a mark in it")


def _refuse_unfit(value: dict[str, Any]) -> None:
    """Refuse escapes that no database and no protobuf can hold as text: NUL and lone surrogates."""
    for path, found, key in _walk(value, ""):
        for text, what in ((key, "the key"), (found, "the text")):
            if isinstance(text, str) and (unfit := _UNFIT.search(text)):
                named = "NUL" if unfit.group() == "\0" else "a lone surrogate"
                _refuse(problem.MALFORMED, f"{what} has {named} in it, at character {unfit.start() + 1}", field=path)


def _walk(value: Any, path: str, key: str = "") -> list[tuple[str, Any, str]]:
    """(path, value, its key) of a value and everything in it, in the order of the body; the depth is bounded."""
    found = [(path, value, key)]
    if isinstance(value, dict):
        for name, item in value.items():
            found += _walk(item, f"{path}.{problem.step(name)}" if path else problem.step(name), name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _walk(item, f"{path}[{index}]")
    return found
