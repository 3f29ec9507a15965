"""Endpoints (a webhook, a status stream) and deliveries (what is owed to one of them), with the rules of trying again.

A webhook gets one event at a time and, after five minutes, an event that fails is overtaken. A status stream gets
batches and is never overtaken: it waits at its first unacknowledged event until that is taken, or long after the job's
end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from controlplane.domain.event import DEFAULT_WEBHOOK_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

WEBHOOK = "webhook"
STATUS_STREAM = "status_stream"


class EndpointState(StrEnum):
    """Whether an endpoint is still tried."""

    ACTIVE = "ACTIVE"
    SETTLED = "SETTLED"
    """Every event of an ended job is delivered or dead."""
    DISABLED = "DISABLED"
    """It answered 410."""


def host_of(url: str) -> str:
    """Host and port: endpoints that share it share a bound on calls under way."""
    return urlsplit(url).netloc.lower()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Someone whom a job tells, with its cursor."""

    job_uid: str
    kind: str
    """`webhook` or `status_stream`; a job has at most one of each."""
    url: str
    types: tuple[str, ...]
    """Event types it asked for; a status stream gets all, and has none here."""
    state: EndpointState = EndpointState.ACTIVE
    cursor: int = 0
    """Every event up to this sequence is settled for it."""
    tries: int = 0
    """Tries of the event behind the cursor."""
    next_try_time_us: int = 0
    first_failure_time_us: int = 0
    """When the event behind the cursor first failed; 0: it has not."""

    @property
    def host(self) -> str:
        """See `host_of`."""
        return host_of(self.url)


_USUAL_TYPES = tuple(sorted(kind.value for kind in DEFAULT_WEBHOOK_TYPES))


def endpoints_of(uid: str, spec: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """Whom a job tells, by its spec: as sent, or effective."""
    callbacks, stream = spec.get("callbacks", {}), spec.get("artifacts", {}).get("status_stream_url")
    found = []
    if "webhook_url" in callbacks:
        types = tuple(callbacks.get("events", ())) or _USUAL_TYPES
        found.append(Endpoint(uid, WEBHOOK, callbacks["webhook_url"], types))
    if stream:
        found.append(Endpoint(uid, STATUS_STREAM, stream, ()))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class PendingRetry:
    """An event that no longer holds back those behind it, and is still tried."""

    job_uid: str
    kind: str
    sequence: int
    tries: int
    next_try_time_us: int
    host: str = ""
    """Its endpoint's."""


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
    """One try of one event, or of a status stream's batch, at one endpoint."""

    job_uid: str
    kind: str
    sequence: int
    """The event's; of a batch, its first's."""
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

#: Events in a status stream's batch, at most.
STREAM_BATCH = 100
#: A status stream's delays after failed tries; the last repeats. Each with jitter.
STREAM_DELAYS = tuple(timedelta(seconds=seconds) for seconds in (1, 2, 4, 8, 16, 32, 60))
#: So long after its job's end a status stream is still tried; then the rest of its events are dead.
STREAM_PATIENCE = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back from a try."""

    status_code: int
    """0: nothing. 2xx is success; 3xx is not followed and fails; 410 disables the endpoint."""
    retry_after: timedelta | None
    """What a 429 or 503 asked for."""
    now_us: int
    """When the try ended."""
    jitter: float
    """0 to 1; delays vary by up to a tenth."""

    @property
    def taken(self) -> bool:
        """Whether the endpoint acknowledged."""
        return 200 <= self.status_code < 300

    @property
    def gone(self) -> bool:
        """Whether the endpoint wants no more."""
        return self.status_code == 410


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows a try."""

    outcome: Outcome
    endpoint: Endpoint
    retry: PendingRetry | None = None
    """The event was overtaken: it is tried on by itself."""


def judge(endpoint: Endpoint, sequence: int, heard: Heard) -> Verdict:
    """What follows a try of the event behind a webhook's cursor.

    Args:
        endpoint: as it was before the try.
        sequence: the event's.
        heard: what came back.
    """
    if heard.taken:
        return Verdict(Outcome.DELIVERED, _past(endpoint, sequence))
    if heard.gone:
        return Verdict(Outcome.DISABLED, replace(endpoint, state=EndpointState.DISABLED))
    tries = endpoint.tries + 1
    first_us = endpoint.first_failure_time_us or heard.now_us
    if tries > len(RETRY_DELAYS):
        return Verdict(Outcome.DEAD, _past(endpoint, sequence))
    next_us = _next_us(RETRY_DELAYS[tries - 1], heard)
    freed_us = first_us + _us(HOLD_BACK)
    if next_us <= freed_us:
        waits = replace(endpoint, tries=tries, next_try_time_us=next_us, first_failure_time_us=first_us)
        return Verdict(Outcome.FAILED, waits)
    # Its next try comes when it may hold back the others no longer: it goes on alone, they go on at that moment.
    alone = PendingRetry(endpoint.job_uid, endpoint.kind, sequence, tries, next_us, endpoint.host)
    freed = replace(_past(endpoint, sequence), next_try_time_us=max(freed_us, heard.now_us))
    return Verdict(Outcome.FAILED, freed, alone)


def judge_retry(retry: PendingRetry, heard: Heard) -> tuple[Outcome, PendingRetry | None]:
    """What follows a try of an overtaken event; None: it is settled."""
    if heard.taken:
        return Outcome.DELIVERED, None
    tries = retry.tries + 1
    if heard.gone or tries > len(RETRY_DELAYS):
        return Outcome.DEAD, None
    return Outcome.FAILED, replace(retry, tries=tries, next_try_time_us=_next_us(RETRY_DELAYS[tries - 1], heard))


def judge_batch(endpoint: Endpoint, last: int, heard: Heard, *, job_ended_us: int) -> Verdict:
    """What follows a try of a status stream's batch. Nothing overtakes it: the cursor moves when it is taken.

    Args:
        endpoint: as it was before the try.
        last: the sequence of the batch's last event.
        heard: what came back.
        job_ended_us: when the job ended; 0: it has not, and the stream is tried for as long as that takes.
    """
    if heard.taken:
        return Verdict(Outcome.DELIVERED, _past(endpoint, last))
    if heard.gone:
        return Verdict(Outcome.DISABLED, replace(endpoint, state=EndpointState.DISABLED))
    if job_ended_us and heard.now_us >= job_ended_us + _us(STREAM_PATIENCE):
        return Verdict(Outcome.DEAD, replace(endpoint, state=EndpointState.SETTLED))
    tries = endpoint.tries + 1
    next_us = _next_us(STREAM_DELAYS[min(tries, len(STREAM_DELAYS)) - 1], heard)
    first_us = endpoint.first_failure_time_us or heard.now_us
    waits = replace(endpoint, tries=tries, next_try_time_us=next_us, first_failure_time_us=first_us)
    return Verdict(Outcome.FAILED, waits)


def _past(endpoint: Endpoint, sequence: int) -> Endpoint:
    return replace(endpoint, cursor=sequence, tries=0, next_try_time_us=0, first_failure_time_us=0)


def _next_us(delay: timedelta, heard: Heard) -> int:
    """When to try again: after the delay, or after what the endpoint asked for, never over a day."""
    if heard.status_code in {429, 503} and heard.retry_after is not None:
        delay = min(max(heard.retry_after, timedelta(seconds=1)), RETRY_DELAYS[-1])
    return heard.now_us + int(delay.total_seconds() * (1 + heard.jitter / 10) * 1e6)


def _us(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1e6)
