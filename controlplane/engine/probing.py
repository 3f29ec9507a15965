"""What nodes are asked before a job is theirs, and what they answer: a port beside `ports.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Finding:
    """What a node found when it looked at one thing that a job needs."""

    check: str
    outcome: str
    """PASSED, FAILED or SKIPPED."""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Probed:
    """What a node found when it looked at a job's model, or for a preflight at all that the job needs."""

    outcome: str
    """PASSED, FAILED or SKIPPED."""
    reason: str = ""
    message: str = ""
    findings: tuple[Finding, ...] = ()
    facts: str = ""
    """What was seen of the model, and for a preflight of datasets, as JSON."""


class ProbeBus(Protocol):
    """Questions to nodes."""

    async def probe(self, node: str, sealed: bytes, *, seconds: float) -> Probed | None:
        """Asks a node, and waits at most so long; None: no answer, which means nothing. Never raises for a lost one."""
        ...
