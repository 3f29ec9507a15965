"""What a request would come to if it were submitted now."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from trainplane.backends.estimate import Estimate

if TYPE_CHECKING:
    from controlplane.domain.errors import Violation


class CheckStatus(StrEnum):
    """What came of a look."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class Check:
    """One look at something that the job will need."""

    name: str
    status: CheckStatus
    reason: str = ""
    message: str = ""
    node: str = ""
    """Who looked; empty: the control plane itself."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """See `trainplane.v1.Preflight`."""

    violations: tuple[Violation, ...] = ()
    warnings: tuple[Violation, ...] = ()
    infeasible_reason: str = ""
    pending_reason: str = ""
    checks: tuple[Check, ...] = ()
    estimate: Estimate = field(default_factory=Estimate)
    judged: bool = True
    """False: the request itself is no good, and nothing else was looked at."""

    @property
    def valid(self) -> bool:
        """Whether a submit would be accepted."""
        return not self.violations

    @property
    def feasible(self) -> bool:
        """Whether some known node could ever run it."""
        return self.judged and not self.infeasible_reason
