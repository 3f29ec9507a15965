"""Checker of free-form objects: any JSON, but such that SQL, protobuf's Struct and a trainer can all hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controlplane.domain.spec import problem
from controlplane.domain.spec.leaves import plain_number
from controlplane.domain.spec.shapes import TEMPLATE

if TYPE_CHECKING:
    from controlplane.domain.spec.field import Field
    from controlplane.domain.spec.findings import Checker, Findings

_DEEPEST = 16
_LONGEST = 4096
_MOST = 1000


def free(field: Field) -> Checker:
    """The checker of a free-form object. Keys with null are dropped, as everywhere."""
    name = field.name

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        if value.__class__ is not dict:
            findings.wrong_type(prefix + name, "an object", value)
            return None
        return _Reading(findings).value(value, prefix + name, 1) or None

    return check


class _Reading:
    """One free-form object being read; it counts, so that nobody stores a haystack."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._seen = 0

    def value(self, value: Any, path: str, depth: int) -> Any:
        """A value as it is kept, or None if it is wrong."""
        self._seen += 1
        if self._seen > _MOST:
            if self._seen == _MOST + 1:
                self._findings.add(path, problem.TOO_MANY, f"must be among the first {_MOST} values")
            return None
        kind = value.__class__
        if kind is str:
            return self._text(value, path)
        if kind is dict or kind is list:
            return self._container(value, path, depth)
        if kind is bool:
            return value
        plain = plain_number(value) if kind is int or kind is float else None
        if plain is None:
            self._findings.add(path, problem.OUT_OF_RANGE, "must be a finite number of at most 2^53 if it is whole")
        return plain

    def _container(self, value: Any, path: str, depth: int) -> Any:
        if depth > _DEEPEST:
            self._findings.add(path, problem.TOO_DEEP, f"must be nested at most {_DEEPEST} deep")
            return None
        if value.__class__ is dict:
            return self._object(value, path, depth)
        return [None if v is None else self.value(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]

    def _text(self, text: str, path: str) -> Any:
        wrong = TEMPLATE.problem(text, self._findings.rules)
        if len(text) > _LONGEST:
            wrong = problem.TOO_LONG, f"must be at most {_LONGEST} characters, got {len(text)}"
        if wrong:
            self._findings.add(path, *wrong)
            return None
        return text

    def _object(self, value: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        kept = {}
        for key, item in sorted(value.items()):
            at = f"{path}.{problem.step(key)}"
            if len(key) > 255 or TEMPLATE.problem(key, self._findings.rules):
                self._findings.add(at, problem.MALFORMED, "the key must be a text of at most 255 characters")
            elif item is not None:
                kept[key] = self.value(item, at, depth + 1)
        return kept
