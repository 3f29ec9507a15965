"""Endpoints (webhook targets) and deliveries (one event owed to one of them), with the rules of trying again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class EndpointState(StrEnum):
    """Whether an endpoint is still tried."""

    ACTIVE = "ACTIVE"
    SETTLED = "SETTLED"
    """Every event of an ended job is delivered or dead."""
    DISABLED = "DISABLED"
    """It answered 410."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook target of a job, with its cursor."""

    job_uid: str
    kind: str
    """`webhook`."""
    url: str
    types: tuple[str, ...]
    """Event types it asked for."""
    state: EndpointState = EndpointState.ACTIVE
    cursor: int = 0
    """Every event up to this sequence is settled for it."""
    tries: int = 0
    """Tries of the event behind the cursor."""
    next_try_time_us: int = 0
    first_failure_time_us: int = 0
    """When the event behind the cursor first failed; 0: it has not."""


@dataclass(frozen=True, slots=True)
class PendingRetry:
    """An event that no longer holds back those behind it, and is still tried."""

    job_uid: str
    kind: str
    sequence: int
    tries: int
    next_try_time_us: int


class Outcome(StrEnum):
    """How one try ended."""

    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    """Tried again later."""
    DEAD = "DEAD"
    """Given up."""
    DISABLED = "DISABLED"
    """410: the endpoint wants no more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try of one event at one endpoint."""

    job_uid: str
    kind: str
    sequence: int
    number: int
    """1, 2, 3 …"""
    time_us: int
    outcome: Outcome
    status_code: int
    """0: no answer."""
    detail: str
    """What went wrong, for people; never a body or a header."""
    duration_seconds: float


#: api.md section 4; each with jitter.
RETRY_DELAYS = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=3),
    timedelta(hours=8),
    timedelta(hours=24),
)
#: An event that has failed for so long no longer holds back those behind it.
HOLD_BACK = timedelta(minutes=5)
#: A try's deadline.
TRY_DEADLINE = timedelta(seconds=15)
