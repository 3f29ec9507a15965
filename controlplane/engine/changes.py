"""A transaction that changes jobs: reads, decides by the lifecycle, writes, and tells after the commit.

    Recorder.write(work) ── store.write ──► work(changes) ── changes.apply(job, news) ──► lifecycle.advance
                                                          └─ flush: jobs, events (rendered once) in the same transaction
                         ── commit ──► announced(Told): relay, watchers, deliveries, dispatcher, wake

Nothing is told from inside a transaction: who hears of an event can read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from controlplane.domain import event as events
from controlplane.domain import lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable

    from controlplane.domain.event import StoredEvent
    from controlplane.domain.job import Job
    from controlplane.domain.news import News
    from controlplane.engine.ports import Clock, Store, Transaction, Vault

T = TypeVar("T")

#: The one secret that outlives its job, until its deliveries have settled.
DELIVERY_SECRET = "callbacks.auth_header"  # noqa: S105 - a path in the spec


@dataclass(slots=True)
class Told:
    """What a committed transaction has to tell."""

    events: list[StoredEvent] = field(default_factory=list)
    wake: set[str] = field(default_factory=set)
    """Nodes of which something else is wanted now."""
    queue: bool = False
    """There is a new job to place."""
    probe: dict[str, str] = field(default_factory=dict)
    """Waiting jobs whose models are to be looked at: uid -> the node that looks."""
    capacity: bool = False
    """A node can take more than before."""


class Changes:
    """What one transaction does to jobs. Use once, inside `Recorder.write`."""

    def __init__(self, tx: Transaction, *, vault: Vault, now_us: int) -> None:
        self.tx = tx
        self.now_us = now_us
        self.told = Told()
        self._vault = vault
        self._jobs: dict[str, Job] = {}

    def apply(self, job: Job, news: News) -> Job:
        """Advances a job; what changed is written by `flush`. Apply to the answer of the apply before.

        Raises:
            MoveNotAllowed: see `lifecycle.advance`.
            IllegalNews: likewise.
        """
        moved, recorded = lifecycle.advance(job, news, now_us=self.now_us)
        if moved is not job:
            self._jobs[moved.uid] = moved
            self.told.events.extend(map(events.stored, recorded))
        return moved

    def newest(self, job: Job) -> Job:
        """The job as this transaction has left it: what is read again still lacks that."""
        return self._jobs.get(job.uid, job)

    def flush(self) -> None:
        """Writes the jobs and their events; a job's end erases its secrets."""
        if self._jobs:
            self.tx.save_jobs(list(self._jobs.values()))
        if self.told.events:
            self.tx.append_events(self.told.events)
        for job in self._jobs.values():
            if job.terminal:
                self._erase(job.uid)

    def _erase(self, uid: str) -> None:
        """All secrets but the delivery's own end with their job."""
        kept = self.tx.sealed_secrets(uid)
        if kept is None or not kept.sealed:
            return
        try:
            secrets = self._vault.open(kept.sealed, uid=uid) if kept.webhook else {}
        except ValueError:  # sealed under a master key that is gone: nobody can use it, and the job must be able to end
            secrets = {}
        remaining = {path: value for path, value in secrets.items() if path == DELIVERY_SECRET}
        self.tx.set_sealed_secrets(uid, self._vault.seal(remaining, uid=uid))


class Recorder:
    """Runs changes in transactions, and announces what was committed."""

    def __init__(self, store: Store, *, vault: Vault, clock: Clock, announce: Callable[[Told], None]) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._announce = announce

    async def write(self, work: Callable[[Changes], T]) -> T:
        """Runs `work` as `Store.write` does, then announces.

        Raises:
            StoreUnavailable: nothing happened.
            OutcomeUnknown: it may have; nothing is announced, and sweeps find what there is.
        """
        told = Told()

        def run(tx: Transaction) -> T:
            nonlocal told
            changes = Changes(tx, vault=self._vault, now_us=self._clock.now_us())
            result = work(changes)
            changes.flush()
            told = changes.told
            return result

        result = await self._store.write(run)
        self._announce(told)
        return result
