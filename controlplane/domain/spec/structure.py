"""Checkers of objects, arrays and maps, put together from the table once at import.

`check(value, prefix, findings)` reads a value in one pass over the table's rows, so that what it returns has the
table's order, null fields and empty objects are gone (absent, null and empty are one and the same), and no secret is
left.
"""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from controlplane.domain.spec import problem
from controlplane.domain.spec.field import Field, Kind, walk
from controlplane.domain.spec.fields import FIELDS
from controlplane.domain.spec.free import free
from controlplane.domain.spec.leaves import leaf
from controlplane.domain.spec.shapes import LINE

if TYPE_CHECKING:
    from controlplane.domain.spec.findings import Checker, Findings

#: Nearest names are sought for so many unknown fields of a request; beyond, nobody reads on.
_SUGGESTIONS = 50
_LONGEST_NAME = 40
_ALIKE = 0.7
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")


def checker_of(field: Field) -> Checker:
    """The checker of one field's value."""
    if field.kind is Kind.BLOCK:
        inner = block(field.fields)
        return _blocks(field, inner) if field.repeated else _block(field, inner)
    if field.kind is Kind.MAP:
        return _map(field)
    if field.kind is Kind.FREE:
        return free(field)
    return _texts(field) if field.repeated else leaf(field)


def block(fields: tuple[Field, ...]) -> Checker:
    """The checker of an object with these fields; its prefix ends in a dot, or is empty at the top."""
    rows = tuple((field.name, checker_of(field), field.required) for field in fields)
    names = frozenset(field.name for field in fields)

    def check(value: dict[str, Any], prefix: str, findings: Findings) -> dict[str, Any]:
        if not value.keys() <= names:
            _report_unknown(value, names, prefix, findings)
        kept = {}
        get = value.get
        for name, checker, required in rows:
            item = get(name)
            if item is not None:
                item = checker(item, prefix, findings)
                if item is not None:
                    kept[name] = item
            elif required:
                findings.add(prefix + name, problem.REQUIRED, "is required")
        return kept

    return check


def _block(field: Field, inner: Checker) -> Checker:
    name, below = field.name, f"{field.name}."

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        if value.__class__ is not dict:
            findings.wrong_type(prefix + name, "an object", value)
            return None
        return inner(value, prefix + below, findings) or None

    return check


def _is_filled_array(value: Any, path: str, field: Field, findings: Findings) -> bool:
    if value.__class__ is not list:
        findings.wrong_type(path, "an array", value)
    elif not value:
        findings.add(
            path, problem.EMPTY, "must have at least one entry" + ("" if field.required else ", or be left out")
        )
    elif len(value) > field.max_items:
        findings.add(path, problem.TOO_MANY, f"must have at most {field.max_items} entries, got {len(value)}")
    else:
        return True
    return False


def _blocks(field: Field, inner: Checker) -> Checker:
    name = field.name

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        if not _is_filled_array(value, prefix + name, field, findings):
            return None
        kept = []
        for index, item in enumerate(value):
            path = f"{prefix}{name}[{index}]"
            if item.__class__ is dict:
                kept.append(inner(item, path + ".", findings))
            else:
                findings.wrong_type(path, "an object", item)
        return kept

    return check


def _texts(field: Field) -> Checker:
    name, one = field.name, leaf(replace(field, name=""))

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        if not _is_filled_array(value, prefix + name, field, findings):
            return None
        before = len(findings.violations)
        kept = [one(item, f"{prefix}{name}[{index}]", findings) for index, item in enumerate(value)]
        if len(findings.violations) > before:
            return None
        if len(set(kept)) < len(kept):
            again = next(index for index, item in enumerate(kept) if item in kept[:index])
            findings.add(f"{prefix}{name}[{again}]", problem.DUPLICATE_VALUE, "stands there already")
            return None
        return kept

    return check


def _map(field: Field) -> Checker:
    name = field.name

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        path = prefix + name
        if value.__class__ is not dict:
            findings.wrong_type(path, "an object of strings", value)
            return None
        if len(value) > field.max_items:
            findings.add(path, problem.TOO_MANY, f"must have at most {field.max_items} entries, got {len(value)}")
            return None
        for key, item in value.items():
            for wrong in (_wrong_key(field, key, findings), _wrong_item(field, item, findings)):
                if wrong is not None:
                    findings.add(f"{path}.{problem.step(key)}", *wrong)
        return dict(sorted(value.items())) or None

    return check


def _wrong_key(field: Field, key: str, findings: Findings) -> problem.Problem | None:
    if field.keys and key not in field.keys:
        return problem.UNKNOWN_FIELD, f"must be one of {', '.join(field.keys)}"
    if field.key_shape is not None and field.key_shape.problem(key, findings.rules):
        return problem.MALFORMED, f"the key must be {field.key_shape.says}"
    return None


def _wrong_item(field: Field, item: Any, findings: Findings) -> problem.Problem | None:
    if item.__class__ is not str:
        return problem.WRONG_TYPE, f"must be a string, got {problem.typed(item)}"
    if not item and field.keys:
        return problem.EMPTY, "must not be empty; leave it out instead"
    if len(item) > field.max_length:
        return problem.TOO_LONG, f"must be at most {field.max_length} characters, got {len(item)}"
    return LINE.problem(item, findings.rules)


_PLACES: dict[str, list[str]] = {}
for _path, _field in walk(FIELDS):
    _PLACES.setdefault(_field.name, []).append(_path)


def _report_unknown(value: dict[str, Any], names: frozenset[str], prefix: str, findings: Findings) -> None:
    for key in value:
        if key in names:
            continue
        path = prefix + problem.step(key)
        snake = _CAMEL.sub(r"_\1", key).lower() if len(key) <= _LONGEST_NAME else key
        if snake in names and value.get(snake) is not None:
            findings.add(path, problem.DUPLICATE_FIELD, f"is {snake} under another spelling, and both are given")
            continue
        meant = _nearest(key, snake, names) if len(findings.violations) < _SUGGESTIONS else ""
        findings.add(path, problem.UNKNOWN_FIELD, f"no such field{meant and f'; did you mean {meant}?'}")


def _nearest(key: str, snake: str, names: frozenset[str]) -> str:
    if len(key) > _LONGEST_NAME:
        return ""
    near = get_close_matches(snake, sorted(names), n=1, cutoff=_ALIKE)
    if near:
        return near[0]
    elsewhere = get_close_matches(snake, sorted(_PLACES), n=1, cutoff=_ALIKE)
    return " or ".join(_PLACES[elsewhere[0]][:2]) if elsewhere else ""


#: The checker of a whole spec.
check_structure = block(FIELDS)
