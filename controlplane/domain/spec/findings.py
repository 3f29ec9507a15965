"""What one reading of a spec has found so far, passed along through the checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from controlplane.domain.errors import Violation
from controlplane.domain.spec import problem

if TYPE_CHECKING:
    from controlplane.domain.spec.rules import Rules

#: (value, prefix of its path, findings) -> the value as it is kept, or None if it was taken out or is wrong.
Checker = Callable[[Any, str, "Findings"], Any]


class Findings:
    """Violations in the order found, and the secrets that were taken out, by path."""

    __slots__ = ("rules", "secrets", "violations")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.violations: list[Violation] = []
        self.secrets: dict[str, str] = {}

    def add(self, path: str, reason: str, description: str) -> None:
        """Record a violation."""
        self.violations.append(Violation(path, reason, description))

    def wrong_type(self, path: str, wanted: str, value: object) -> None:
        """Record a value of another JSON type; the value itself is not told."""
        self.add(path, problem.WRONG_TYPE, f"must be {wanted}, got {problem.typed(value)}")

    def spoiled(self) -> frozenset[str]:
        """The paths whose value was not understood: what is judged between fields leaves these out."""
        return frozenset(found.field for found in self.violations if found.reason != problem.NOT_YET_SUPPORTED)
