"""Taking jobs: many submits share one commit.

    submit ──► queue ──► loop: linger while more come ──► ONE transaction: jobs, first events ──► every caller answered

Invariant 1: the answer comes after the commit. Invariant 2: the name decides; a repeat answers the job that is there, a
changed one is refused naming the paths that differ.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from controlplane.domain import event as events
from controlplane.domain import lifecycle, spec
from controlplane.domain.errors import JobExists, TooManyRequests, Unavailable
from controlplane.domain.ids import ulid
from controlplane.domain.job import Job, JobRecord, NewJob, State
from controlplane.engine import outputs
from controlplane.engine.changes import Told
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from controlplane.domain.errors import OutputInUse, Violation
    from controlplane.domain.event import StoredEvent
    from controlplane.domain.spec import CheckedSpec, Rules
    from controlplane.engine.ports import Clock, Store, Transaction, Vault

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

    record: JobRecord
    checked: CheckedSpec
    created: bool
    """False: a repeat; the job was there."""


@dataclass(slots=True)
class _Pending:
    new: NewJob
    checked: CheckedSpec
    first: StoredEvent
    answer: asyncio.Future[Submitted]


class Submissions:
    """Takes checked specs, stores them in batches, answers each."""

    def __init__(
        self, store: Store, *, vault: Vault, clock: Clock, rules: Rules, announce: Callable[[Told], None]
    ) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._rules = rules
        self._announce = announce
        self._waiting: asyncio.Queue[_Pending] = asyncio.Queue()

    async def submit(self, raw: dict[str, Any], *, project: str, idempotency_key: str = "") -> Submitted:
        """Checks a spec and stores the job durably, or answers the one of that name.

        Repeatable under a name: the spec's `job_id`, or else the idempotency key. Cancelling the call does not undo it.

        Raises:
            InvalidSpec: with every violation; nothing is stored.
            JobExists: the name is taken by a job with another spec.
            OutputInUse: a live job publishes where this one would.
            TooManyRequests: more submits wait than a few commits can take.
            Unavailable: nothing is known to be stored; repeating under the same name is safe.
        """
        if self._waiting.qsize() >= MAX_WAITING:
            raise TooManyRequests("too many submits wait for the database", retry_after=_RETRY_AFTER)
        pending = self._new(raw, project=project, idempotency_key=idempotency_key)
        self._waiting.put_nowait(pending)
        return await pending.answer  # a caller that goes away takes back its answer, not its job

    def preview(self, raw: dict[str, Any], *, project: str) -> Submitted:
        """What would be stored; stores nothing.

        Raises:
            InvalidSpec: with every violation.
        """
        pending = self._new(raw, project=project, idempotency_key="")
        return Submitted(_record(pending.new), pending.checked, created=False)

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

    def _new(self, raw: dict[str, Any], *, project: str, idempotency_key: str) -> _Pending:
        now_us = self._clock.now_us()
        uid = ulid(now_us, secrets.randbits(80))
        job_id = idempotency_key or f"job-{uid.lower()}"
        checked = spec.check(raw, rules=self._rules, fallback_job_id=job_id)
        job = Job(
            uid=uid,
            project=project,
            job_id=checked.job_id or job_id,
            state=State.QUEUED,
            max_attempts=checked.max_attempts,
            last_sequence=1,
            update_time_us=now_us,
        )
        new = NewJob(
            job=job,
            priority=checked.priority,
            create_time_us=now_us,
            sent=spec.canonical(checked.sent),
            requirement=checked.requirement,
            labels=checked.labels,
            warnings=_warnings_json(checked.warnings),
            secret_macs=json.dumps(spec.secret_macs(checked.secrets, self._vault.mac_key()))
            if checked.secrets
            else "{}",
            sealed_secrets=self._vault.seal(checked.secrets, uid=uid),
            webhook=bool(checked.effective.get("callbacks", {}).get("webhook_url")),
            output_uri=checked.effective["artifacts"]["output_uri"],
            output_place=spec.place(checked.effective["artifacts"]["output_uri"]),
            status_stream="status_stream_url" in checked.effective["artifacts"],
        )
        first = events.stored(lifecycle.created(job, now_us=now_us))
        return _Pending(new, checked, first, asyncio.get_running_loop().create_future())

    async def _store_batch(self, batch: list[_Pending]) -> None:
        def work(tx: Transaction) -> tuple[frozenset[str], dict[str, JobRecord], dict[str, OutputInUse]]:
            refused = outputs.taken(tx, [p.new for p in batch])
            stored = tx.insert_jobs([p.new for p in batch if p.new.job.uid not in refused])
            tx.append_events([p.first for p in batch if p.new.job.uid in stored])
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
        told = Told(events=[p.first for p in batch if p.new.job.uid in stored], queue=bool(stored))
        self._announce(told)
        for pending in batch:
            if pending.new.job.uid in refused:
                _fail(pending.answer, refused[pending.new.job.uid])
                continue
            self._answer(pending, created=pending.new.job.uid in stored, there=there.get(pending.new.job.uid))

    def _answer(self, pending: _Pending, *, created: bool, there: JobRecord | None) -> None:
        if created:
            _resolve(pending.answer, Submitted(_record(pending.new), pending.checked, created=True))
        elif there is None:
            _fail(pending.answer, Unavailable("the job of that name was just deleted", retry_after=_RETRY_AFTER))
        else:
            differing = spec.same(
                json.loads(there.sent),
                json.loads(there.secret_macs),
                pending.checked.sent,
                json.loads(pending.new.secret_macs),
            )
            if differing:
                _fail(pending.answer, JobExists(there.job.job_id, differing=differing))
            else:
                _resolve(pending.answer, Submitted(there, pending.checked, created=False))


@lru_cache(maxsize=256)
def _warnings_json(warnings: tuple[Violation, ...]) -> str:
    """The same few warnings come with every job of a user's template."""
    return json.dumps([{"field": w.field, "reason": w.reason, "description": w.description} for w in warnings])


def _record(new: NewJob) -> JobRecord:
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
        pending_reason="",
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
