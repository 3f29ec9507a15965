"""Taking jobs: many submits share one commit.

    submit ──► prepare ──► queue ──► loop: linger while more come ──► ONE transaction for all of them ──► answers

Invariant 1: the answer comes after the commit. Invariant 2: the name decides; a repeat answers the job that is there, a
changed one is refused naming the paths that differ.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from controlplane.domain import spec
from controlplane.domain.errors import JobExists, TooManyRequests, Unavailable
from controlplane.domain.job import JobRecord, NewJob
from controlplane.engine import outputs
from controlplane.engine.changes import Told
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from controlplane.domain.errors import OutputInUse
    from controlplane.engine.ports import Clock, Store, Transaction
    from controlplane.engine.preparing import Asked, Prepared, Preparing
    from controlplane.engine.waits import KnownWaits

LINGER = timedelta(milliseconds=2)
"""A batch waits for the next submit so long, at first and after each that came,"""
MAX_LINGER = timedelta(milliseconds=30)
"""but its first not longer than this."""
MAX_BATCH = 256
MAX_WAITING = 4_096
_RETRY_AFTER = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Created:
    """A submit that made a job."""

    new: NewJob
    answer: bytes = field(repr=False)
    """What the door answers, without the pending reason."""
    pending_reason: str = ""
    created: ClassVar[bool] = True

    @property
    def record(self) -> JobRecord:
        """The job as it was stored."""
        return record_of(self.new, pending_reason=self.pending_reason)


@dataclass(frozen=True, slots=True)
class Repeated:
    """A submit of a job that was there."""

    record: JobRecord
    created: ClassVar[bool] = False


Submitted: TypeAlias = Created | Repeated


@dataclass(slots=True)
class _Pending:
    new: NewJob
    prepared: Prepared
    answer: asyncio.Future[Submitted]


class Submissions:
    """Takes submits, stores them in batches, answers each."""

    def __init__(
        self,
        store: Store,
        *,
        preparing: Preparing,
        clock: Clock,
        waits: KnownWaits,
        announce: Callable[[Told], None],
    ) -> None:
        self._store = store
        self._waits = waits
        self._preparing = preparing
        self._clock = clock
        self._announce = announce
        self._waiting: list[_Pending] = []
        self._came = asyncio.Event()
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
            prepared = await self._preparing.prepare(asked, crowd=self._inside)
            pending = _Pending(prepared.new, prepared, asyncio.get_running_loop().create_future())
            self._waiting.append(pending)
            self._came.set()
            return await pending.answer  # a caller that goes away takes back its answer, not its job
        finally:
            self._inside -= 1

    async def preview(self, asked: Asked) -> Created:
        """What would be stored; stores nothing.

        Raises:
            InvalidSpec: with every violation.
        """
        prepared = await self._preparing.prepare(asked, crowd=1)
        return Created(prepared.new, prepared.answer)

    async def run(self) -> None:
        """The loop: one batch after the other, for ever."""
        while True:
            await self._came.wait()
            await self._linger()
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            if not self._waiting:
                self._came.clear()
            await self._store_batch(batch)

    async def _linger(self) -> None:
        """Waits while more submits come: a transaction costs as much as judging several of them."""
        until = self._clock.monotonic() + MAX_LINGER.total_seconds()
        before = 0
        while before < len(self._waiting) < MAX_BATCH and self._clock.monotonic() < until:
            before = len(self._waiting)
            await self._clock.sleep(LINGER.total_seconds())

    async def _store_batch(self, batch: list[_Pending]) -> None:
        generation = self._waits.generation
        reasons = {p.new.job.uid: why for p in batch if (why := self._waits.why(p.new.requirement))}

        def work(tx: Transaction) -> tuple[frozenset[str], dict[str, JobRecord], dict[str, OutputInUse]]:
            news = [p.new for p in batch]
            refused = outputs.taken(tx, news)
            stored = tx.insert_jobs([new for new in news if new.job.uid not in refused], pending=reasons)
            tx.append_events([p.prepared.first for p in batch if p.new.job.uid in stored])
            tx.insert_endpoints([each for new in news if new.job.uid in stored for each in new.endpoints])
            there = {}
            for pending in batch:
                job = pending.new.job
                if job.uid not in stored and job.uid not in refused:
                    record = tx.record(job.project, job.job_id)
                    if record is not None:
                        there[job.uid] = record
            return stored, there, refused

        try:
            stored, there, refused = await self._store.write(work)
        except (StoreUnavailable, OutcomeUnknown) as error:
            # Repeating is safe under a name, so an unknown outcome and a refusal are told alike.
            refusal = Unavailable("the database does not answer; repeat the request", retry_after=_RETRY_AFTER)
            refusal.__cause__ = error
            for pending in batch:
                _fail(pending.answer, refusal)
            return
        self._announce(
            Told(
                events=[p.prepared.first for p in batch if p.new.job.uid in stored],
                queue=not stored <= reasons.keys(),
                # What was known when they were stored may be wrong by now: the whole queue is looked at again.
                capacity=bool(reasons) and self._waits.generation != generation,
            )
        )
        for pending in batch:
            uid = pending.new.job.uid
            if uid in stored:
                _resolve(pending.answer, Created(pending.new, pending.prepared.answer, reasons.get(uid, "")))
            elif uid in refused:
                _fail(pending.answer, refused[uid])
            else:
                _settle_repeat(pending, there.get(uid))


def _settle_repeat(pending: _Pending, there: JobRecord | None) -> None:
    new = pending.new
    if there is None:
        _fail(pending.answer, Unavailable("the job of that name was just deleted", retry_after=_RETRY_AFTER))
    else:
        differing = spec.same(
            json.loads(there.sent), json.loads(there.secret_macs), json.loads(new.sent), json.loads(new.secret_macs)
        )
        if differing:
            _fail(pending.answer, JobExists(there.job.job_id, differing=differing))
        else:
            _resolve(pending.answer, Repeated(there))


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
