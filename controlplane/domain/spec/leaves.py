"""Checkers of single values, one closure per row of the table, made once at import.

A submit has microseconds, so each asks the likely question first (is it of the type, does the pattern accept it) and
turns to words only when the answer is no.
"""

from __future__ import annotations

from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING, Any

from controlplane.domain.spec import problem
from controlplane.domain.spec.field import Field, Kind
from controlplane.domain.spec.shapes import LINE

if TYPE_CHECKING:
    from controlplane.domain.spec.findings import Checker, Findings

_ARTICLED = {Kind.TEXT: "a string", Kind.INTEGER: "an integer", Kind.NUMBER: "a number", Kind.FLAG: "true or false"}

#: Whole numbers below this are the same as a double and as an integer.
_EXACT = 2**53


def leaf(field: Field) -> Checker:
    """The checker of one value of a field, which need not be None-safe: null was taken for absent before."""
    if field.not_yet:
        return _refused(field)
    if field.kind is Kind.FLAG:
        return _only(field, _flag(field))
    if field.kind is Kind.INTEGER:
        return _only(field, _integer(field))
    if field.kind is Kind.NUMBER:
        return _only(field, _number(field))
    checker = _choice(field) if field.choices else _text(field)
    return _secret(field, checker) if field.secret else checker


def _flag(field: Field) -> Checker:
    name = field.name

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        if value is True or value is False:
            return value
        findings.wrong_type(prefix + name, _ARTICLED[Kind.FLAG], value)
        return None

    return check


def _integer(field: Field) -> Checker:
    name, low, high, words = field.name, field.low, field.high, field.range_words()
    if low is None or high is None:
        raise TypeError(f"{name} needs bounds")

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        kind = value.__class__
        if kind is float and value.is_integer():
            value, kind = int(value), int
        if kind is float:
            findings.add(prefix + name, problem.WRONG_TYPE, f"must be a whole number, got {problem.shown(value)}")
        elif kind is not int:
            findings.wrong_type(prefix + name, _ARTICLED[Kind.INTEGER], value)
        elif low <= value <= high:
            return value
        else:
            findings.add(prefix + name, problem.OUT_OF_RANGE, f"must be {words}, got {problem.shown(value)}")
        return None

    return check


def _number(field: Field) -> Checker:
    name, low, high, words = field.name, field.low, field.high, field.range_words()
    if low is None or high is None:
        raise TypeError(f"{name} needs bounds")
    above, below = field.above_low, field.below_high

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        kind = value.__class__
        if kind is not float and kind is not int:
            findings.wrong_type(prefix + name, _ARTICLED[Kind.NUMBER], value)
        elif low <= value <= high and not (above and value == low) and not (below and value == high):
            return int(value) if kind is float and value.is_integer() else value
        else:
            findings.add(prefix + name, problem.OUT_OF_RANGE, f"must be {words}, got {problem.shown(value)}")
        return None

    return check


def _text(field: Field) -> Checker:
    name, longest, shape = field.name, field.max_length, field.shape or LINE
    accepts = shape.accepts.fullmatch if shape.accepts is not None else None

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        if value.__class__ is not str:
            findings.wrong_type(prefix + name, _ARTICLED[Kind.TEXT], value)
            return None
        if not 0 < len(value) <= longest:
            _report_length(prefix + name, value, longest, findings)
            return None
        if accepts is not None and accepts(value):
            return value
        wrong = shape.problem(value, findings.rules)
        if wrong is None:
            return value
        findings.add(prefix + name, *wrong)
        return None

    return check


def _report_length(path: str, value: str, longest: int, findings: Findings) -> None:
    if value:
        findings.add(path, problem.TOO_LONG, f"must be at most {longest} characters, got {len(value)}")
    else:
        findings.add(path, problem.EMPTY, "must not be empty; leave it out instead")


def _choice(field: Field) -> Checker:
    name, today, later = field.name, frozenset(field.choices), frozenset(field.later)
    known = ", ".join(field.choices)

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        if value.__class__ is not str:
            findings.wrong_type(prefix + name, _ARTICLED[Kind.TEXT], value)
        elif value in today:
            return value
        elif value in later:
            findings.add(prefix + name, problem.NOT_YET_SUPPORTED, f"{value} comes later; today: {known}")
            return value
        else:
            findings.add(prefix + name, problem.UNKNOWN_VALUE, _unknown(value, field))
        return None

    return check


def _unknown(value: str, field: Field) -> str:
    words = field.choices + field.later
    near = get_close_matches(value[:64].lower(), words, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    later = f" (later: {', '.join(field.later)})" if field.later else ""
    return f"must be one of {', '.join(field.choices)}{later}, got {problem.shown(value)}{meant}"


def _only(field: Field, checker: Checker) -> Checker:
    if field.only is None:
        return checker
    name, only = field.name, field.only
    word = str(only).lower()

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        value = checker(value, prefix, findings)
        if value is None or value == only:
            return value
        findings.add(prefix + name, problem.NOT_YET_SUPPORTED, f"other values come later; today it must be {word}")
        return None

    return check


def _refused(field: Field) -> Checker:
    name = field.name

    def check(_value: Any, prefix: str, findings: Findings) -> Any:
        findings.add(prefix + name, problem.NOT_YET_SUPPORTED, "this field comes later; leave it out")

    return check


def _secret(field: Field, checker: Checker) -> Checker:
    name = field.name

    def check(value: Any, prefix: str, findings: Findings) -> Any:
        value = checker(value, prefix, findings)
        if value is not None:
            findings.secrets[prefix + name] = value

    return check


def plain_number(value: float) -> float | None:
    """One spelling of a number, so that equal ones are written alike: 16.0 becomes 16; None: no double holds it."""
    if isinstance(value, int):
        return value if -_EXACT <= value <= _EXACT else None
    if not isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) <= _EXACT else value
