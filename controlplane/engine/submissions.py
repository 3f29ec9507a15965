"""Taking jobs: many submits share one commit.

    few:   submit ──► prepare ──► queue ──► loop: linger while more come ──► ONE transaction ──► answers
    many:  submit ──► another process, which does the same (controlplane.submitter) ──► answers

Invariant 1: the answer comes after the commit. Invariant 2: the name decides; a repeat answers the job that is there, a
changed one is refused naming the paths that differ.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from controlplane.domain.errors import TooManyRequests, Unavailable
from controlplane.domain.ids import ulid
from controlplane.domain.job import JobRecord
from controlplane.engine.changes import Told
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from controlplane.engine.storing import Stored, store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from controlplane.domain.event import StoredEvent
    from controlplane.domain.job import NewJob
    from controlplane.engine.ports import Clock, Store
    from controlplane.engine.preparing import Asked, Prepared
    from controlplane.engine.waits import KnownWaits

LINGER = timedelta(milliseconds=2)
"""A batch waits for the next submit so long, at first and after each that came,"""
MAX_LINGER = timedelta(milliseconds=30)
"""but its first not longer than this."""
MAX_BATCH = 256
MAX_WAITING = 4_096
_RETRY_AFTER = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submit."""

    record: JobRecord | None
    """None: it was created in another process."""
    created: bool
    """False: a repeat; the job was there."""
    why: str = ""
    """The pending reason that it was created with; empty: not known yet."""
    answer: bytes = field(default=b"", repr=False)
    """What the door answers, where the job was created; without its pending reason."""


class Crowd(Protocol):
    """Another process that takes submits while many come."""

    async def take(self, asked: Asked, *, crowd: int) -> Submitted | None:
        """Does what `Submissions.submit` does, and announces.

        Args:
            asked: the submit, with a uid: so that taking it once more makes no second job.
            crowd: how many submits are under way, this one among them.

        Returns:
            None: it was not taken, or nobody knows; it is to be taken here.

        Raises:
            InvalidSpec, JobExists, OutputInUse, Unavailable: as `Submissions.submit`.
        """
        ...


class Nobody:
    """No other process: every submit is taken here."""

    async def take(self, asked: Asked, *, crowd: int) -> None:
        """See Crowd."""


@dataclass(slots=True)
class _Pending:
    prepared: Prepared
    answer: asyncio.Future[Submitted]


class Submissions:
    """Takes submits, stores them in batches, answers each."""

    def __init__(
        self,
        store: Store,
        *,
        prepare: Callable[[Asked], Prepared],
        crowd: Crowd,
        clock: Clock,
        waits: KnownWaits,
        announce: Callable[[Told], None],
    ) -> None:
        self._store = store
        self._waits = waits
        self._prepare = prepare
        self._crowd = crowd
        self._clock = clock
        self._announce = announce
        self._waiting: asyncio.Queue[_Pending] = asyncio.Queue()
        self._inside = 0

    async def submit(self, asked: Asked) -> Submitted:
        """Checks a spec and stores the job durably, or answers the one of that name.

        Repeatable under a name: the spec's `job_id`, or else the idempotency key. Cancelling the call does not undo it.

        Raises:
            InvalidSpec: with every violation; nothing is stored.
            JobExists: the name is taken by a job with another spec.
            OutputInUse: a live job publishes where this one would.
            TooManyRequests: more submits wait than a few commits can take.
            Unavailable: nothing is known to be stored; repeating under the same name is safe.
        """
        if self._inside >= MAX_WAITING:
            raise TooManyRequests("too many submits wait for the database", retry_after=_RETRY_AFTER)
        self._inside += 1
        try:
            asked = asked.named(ulid(self._clock.now_us(), secrets.randbits(80)))
            taken = await self._crowd.take(asked, crowd=self._inside)
            if taken is not None:
                return taken
            pending = _Pending(self._prepare(asked), asyncio.get_running_loop().create_future())
            self._waiting.put_nowait(pending)
            return await pending.answer  # a caller that goes away takes back its answer, not its job
        finally:
            self._inside -= 1

    async def preview(self, asked: Asked) -> Submitted:
        """What would be stored; stores nothing.

        Raises:
            InvalidSpec: with every violation.
        """
        prepared = self._prepare(asked)
        return Submitted(record_of(prepared.new), created=True, answer=prepared.answer)

    async def run(self) -> None:
        """The loop: one batch after the other, for ever."""
        while True:
            batch = [await self._waiting.get()]
            await self._linger()
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._store_batch(batch)

    async def _linger(self) -> None:
        """Waits while more submits come: a transaction costs as much as judging several of them."""
        until = self._clock.monotonic() + MAX_LINGER.total_seconds()
        before = -1
        while before < self._waiting.qsize() < MAX_BATCH and self._clock.monotonic() < until:
            before = self._waiting.qsize()
            await self._clock.sleep(LINGER.total_seconds())

    async def _store_batch(self, batch: list[_Pending]) -> None:
        generation = self._waits.generation
        prepared = [pending.prepared for pending in batch]
        reasons = self._waits.of(each.new for each in prepared)
        try:
            outcomes = await self._store.write(lambda tx: store(tx, prepared, pending=reasons))
        except (StoreUnavailable, OutcomeUnknown) as error:
            # Repeating is safe under a name, so an unknown outcome and a refusal are told alike.
            refusal = Unavailable("the database does not answer; repeat the request", retry_after=_RETRY_AFTER)
            refusal.__cause__ = error
            for pending in batch:
                _fail(pending.answer, refusal)
            return
        stored = [
            (each.first, reasons.get(each.new.job.uid, ""))
            for each, outcome in zip(prepared, outcomes, strict=True)
            if isinstance(outcome, Stored)
        ]
        self._announce(told_of(stored, outdated=self._waits.generation != generation))
        for pending, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Stored):
                new = pending.prepared.new
                why = reasons.get(new.job.uid, "")
                record = record_of(new, pending_reason=why)
                _resolve(pending.answer, Submitted(record, created=True, why=why, answer=pending.prepared.answer))
            elif isinstance(outcome, JobRecord):
                _resolve(pending.answer, Submitted(outcome, created=False))
            else:
                _fail(pending.answer, outcome)


def told_of(stored: Sequence[tuple[StoredEvent, str]], *, outdated: bool) -> Told:
    """What a batch has to tell.

    Args:
        stored: the first event of each job that was stored, and the pending reason that it was stored with, if any.
        outdated: what was known when they were stored may be wrong by now: the whole queue is looked at again.
    """
    return Told(
        events=[first for first, _ in stored],
        queue=not all(why for _, why in stored),
        capacity=outdated and any(why for _, why in stored),
    )


def record_of(new: NewJob, *, pending_reason: str = "") -> JobRecord:
    """The stored job, without reading it back."""
    return JobRecord(
        job=new.job,
        priority=new.priority,
        create_time_us=new.create_time_us,
        sent=new.sent,
        labels=new.labels,
        warnings=new.warnings,
        secret_macs=new.secret_macs,
        output_uri=new.output_uri,
        pending_reason=pending_reason,
        base_model_commit="",
        retry_of="",
    )


def _resolve(answer: asyncio.Future[Submitted], value: Submitted) -> None:
    if not answer.done():
        answer.set_result(value)


def _fail(answer: asyncio.Future[Submitted], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # seen: a caller that went away must not make asyncio log it
