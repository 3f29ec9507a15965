"""What the control plane refuses, and why: the one tree of domain errors.

    DomainError                    reason              gRPC code, given by the one guard
    ├── InvalidSpec                INVALID_SPEC        INVALID_ARGUMENT, with every violation
    ├── InvalidArgument            the caller's        INVALID_ARGUMENT, with one violation
    ├── JobNotFound                JOB_NOT_FOUND       NOT_FOUND
    ├── JobExists                  JOB_EXISTS          ALREADY_EXISTS, naming the differing paths
    ├── OutputInUse                OUTPUT_IN_USE       FAILED_PRECONDITION, naming the job
    ├── MoveNotAllowed             MOVE_NOT_ALLOWED    FAILED_PRECONDITION, naming the state
    ├── TooManyRequests            TOO_MANY_REQUESTS   RESOURCE_EXHAUSTED, with RetryInfo
    └── Unavailable                UNAVAILABLE         UNAVAILABLE, with RetryInfo

These are answers to a *call*. A job that failed is no exception: its reason is data in the job. Nothing
here knows gRPC; `str(error)` is fit for the caller's eyes and holds no secret.
"""

# ruff: noqa: N818 - these names say what happened ("JobNotFound"); every one is an error, so the suffix says nothing

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request.

    Attributes:
        field: the path as the user wrote it, with indices (`datasets[1].source`); empty for the whole body.
        reason: a stable UPPER_SNAKE word for machines.
        description: a sentence for people; never a secret's value, never much of any other value.
    """

    field: str
    reason: str
    description: str


class DomainError(Exception):
    """Root of the tree. `reason` is stable: clients branch on it."""

    reason: str = "DOMAIN_ERROR"


class InvalidSpec(DomainError):
    """A job's description is refused; `violations` holds everything that is wrong with it, at least one."""

    reason = "INVALID_SPEC"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        count = len(self.violations)
        super().__init__("1 field is invalid" if count == 1 else f"{count} fields are invalid")


class InvalidArgument(DomainError):
    """One argument of a call, other than a job's description, is refused (a page token, a filter)."""

    def __init__(self, *, field: str, reason: str, description: str) -> None:
        self.reason = reason
        self.violation = Violation(field, reason, description)
        super().__init__(f"{field}: {description}")


class JobNotFound(DomainError):
    """There is no such job in the caller's project. A foreign project's job looks just the same."""

    reason = "JOB_NOT_FOUND"

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        shown = job_id if len(job_id) <= 63 else f"{job_id[:63]}…"
        super().__init__(f"there is no job {shown!r}")


class JobExists(DomainError):
    """The id is taken by a job with another spec; `differing` names the paths at which the two differ."""

    reason = "JOB_EXISTS"

    def __init__(self, job_id: str, *, differing: Sequence[str]) -> None:
        self.job_id = job_id
        self.differing = tuple(differing)
        shown = ", ".join(self.differing[:10]) + (", …" if len(self.differing) > 10 else "")
        super().__init__(f"job {job_id!r} exists with another spec; they differ in {shown}")


class OutputInUse(DomainError):
    """A live job publishes to the place that the spec asks for, or one of the two places lies in the other."""

    reason = "OUTPUT_IN_USE"

    def __init__(self, job_id: str, *, state: str) -> None:
        self.job_id = job_id
        self.state = state
        super().__init__(
            f"artifacts.output_uri: job {job_id!r}, which is {state}, publishes there, or above or below it;"
            " choose another prefix, wait for that job's end, or cancel it"
        )


class MoveNotAllowed(DomainError):
    """The job's state does not allow what was asked; asking again helps only after the state has changed."""

    reason = "MOVE_NOT_ALLOWED"

    def __init__(self, *, state: str, wanted: str, why: str) -> None:
        self.state = state
        self.wanted = wanted
        self.why = why
        super().__init__(f"cannot {wanted} a job that is {state}: {why}")


class TooManyRequests(DomainError):
    """The caller is over a limit; nothing was done."""

    reason = "TOO_MANY_REQUESTS"

    def __init__(self, description: str, *, retry_after: timedelta) -> None:
        self.retry_after = retry_after
        super().__init__(description)


class Unavailable(DomainError):
    """We cannot do it now: the database is away, or we are shutting down.

    Whether it took effect may be unknown; a call that carries an id may be repeated.
    """

    reason = "UNAVAILABLE"

    def __init__(self, description: str, *, retry_after: timedelta) -> None:
        self.retry_after = retry_after
        super().__init__(description)
