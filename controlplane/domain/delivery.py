"""Endpoints (webhook targets) and deliveries (one event owed to one of them), with the rules of trying again."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows a try."""

    outcome: Outcome
    endpoint: Endpoint
    retry: PendingRetry | None = None
    """The event was overtaken: it is tried on by itself."""


def judge(
    endpoint: Endpoint, sequence: int, *, status_code: int, retry_after: timedelta | None, now_us: int, jitter: float
) -> Verdict:
    """What follows a try of the event behind the cursor.

    Args:
        endpoint: as it was before the try.
        sequence: the event's.
        status_code: what was answered; 0: nothing. 2xx is success; 3xx is not followed and fails.
        retry_after: what a 429 or 503 asked for.
        now_us: when the try ended.
        jitter: 0 to 1; delays vary by up to a tenth.
    """
    if 200 <= status_code < 300:
        return Verdict(Outcome.DELIVERED, _past(endpoint, sequence))
    if status_code == 410:
        return Verdict(Outcome.DISABLED, replace(endpoint, state=EndpointState.DISABLED))
    tries = endpoint.tries + 1
    first_us = endpoint.first_failure_time_us or now_us
    if tries > len(RETRY_DELAYS):
        return Verdict(Outcome.DEAD, _past(endpoint, sequence))
    next_us = now_us + _delay_us(tries, status_code=status_code, retry_after=retry_after, jitter=jitter)
    freed_us = first_us + int(HOLD_BACK.total_seconds() * 1e6)
    if next_us <= freed_us:
        waits = replace(endpoint, tries=tries, next_try_time_us=next_us, first_failure_time_us=first_us)
        return Verdict(Outcome.FAILED, waits)
    # Its next try comes when it may hold back the others no longer: it goes on alone, they go on at that moment.
    alone = PendingRetry(endpoint.job_uid, endpoint.kind, sequence, tries, next_us)
    return Verdict(Outcome.FAILED, replace(_past(endpoint, sequence), next_try_time_us=max(freed_us, now_us)), alone)


def judge_retry(
    retry: PendingRetry, *, status_code: int, retry_after: timedelta | None, now_us: int, jitter: float
) -> tuple[Outcome, PendingRetry | None]:
    """What follows a try of an overtaken event; None: it is settled."""
    if 200 <= status_code < 300:
        return Outcome.DELIVERED, None
    tries = retry.tries + 1
    if status_code == 410 or tries > len(RETRY_DELAYS):
        return Outcome.DEAD, None
    next_us = now_us + _delay_us(tries, status_code=status_code, retry_after=retry_after, jitter=jitter)
    return Outcome.FAILED, replace(retry, tries=tries, next_try_time_us=next_us)


def _past(endpoint: Endpoint, sequence: int) -> Endpoint:
    return replace(endpoint, cursor=sequence, tries=0, next_try_time_us=0, first_failure_time_us=0)


def _delay_us(tries: int, *, status_code: int, retry_after: timedelta | None, jitter: float) -> int:
    """The delay after so many failed tries, or what the endpoint asked for, never over a day."""
    delay = RETRY_DELAYS[tries - 1]
    if status_code in {429, 503} and retry_after is not None:
        delay = min(max(retry_after, timedelta(seconds=1)), RETRY_DELAYS[-1])
    return int(delay.total_seconds() * (1 + jitter / 10) * 1e6)
