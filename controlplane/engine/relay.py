"""Publishing recorded events to JetStream, each job's in order.

SQL says what is owed (`jobs.published_sequence < last_sequence`); `Recent` usually has the bytes. A batch is published,
then marked: killed between the two, it is published again, and JetStream's deduplication or the reader's drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from controlplane.engine.ports import BusUnavailable, OutcomeUnknown, StoreUnavailable
from controlplane.engine.signals import Bell

if TYPE_CHECKING:
    from controlplane.domain.event import StoredEvent
    from controlplane.engine.ports import Bus, Clock, Store, Transaction, Unpublished
    from controlplane.engine.signals import Recent

SWEEP_SECONDS = 1.0
JOBS_PER_ROUND = 500
EVENTS_PER_ROUND = 1_000
_CROWD = 8
_CROWD_LINGER = timedelta(milliseconds=50)
"""After a round of so many events the next waits longer and takes more: a round costs as much as many events."""
_META_STREAM = "events_stream"


@dataclass(frozen=True, slots=True)
class Pace:
    """How the relay batches, and how far back a lost stream is filled again."""

    linger: timedelta
    retention: timedelta


@dataclass(frozen=True, slots=True)
class _Round:
    events: list[StoredEvent]
    marks: dict[str, int]
    """uid -> the last event of it in this round"""
    more: bool


class Relay:
    """Owes JetStream every event, and pays."""

    def __init__(self, store: Store, *, bus: Bus, clock: Clock, recent: Recent, pace: Pace) -> None:
        self.bell = Bell()
        self._store = store
        self._bus = bus
        self._clock = clock
        self._recent = recent
        self._pace = pace
        self._stream_known = False
        self._published = 0
        """By the last round."""

    def reconnected(self) -> None:
        """The bus was away: the stream may be another one now."""
        self._stream_known = False
        self.bell.ring()

    async def run(self) -> None:
        """The loop: a round on every hint and every second; the bus or SQL being away only delays it."""
        while True:
            try:
                more = await self.round()
            except (BusUnavailable, StoreUnavailable, OutcomeUnknown):
                self._stream_known = False
                await self._clock.sleep(SWEEP_SECONDS)
                continue
            if not more and await self.bell.wait(SWEEP_SECONDS):
                linger = self._pace.linger if self._published < _CROWD else _CROWD_LINGER
                await self._clock.sleep(linger.total_seconds())  # what is committed next shares the batch

    async def round(self) -> bool:
        """Publishes one batch; answers whether more is owed."""
        if not self._stream_known:
            try:
                await self._check_stream()
            except BaseException:
                self._stream_known = False
                raise
        batch = await self._store.read(self._collect)
        self._published = len(batch.events)
        if batch.events:
            await self._bus.publish(batch.events)
            await self._store.write(lambda tx: tx.mark_published(batch.marks))
        return batch.more

    def _collect(self, tx: Transaction) -> _Round:
        owed = tx.unpublished(limit=JOBS_PER_ROUND)
        events: list[StoredEvent] = []
        marks: dict[str, int] = {}
        more = len(owed) == JOBS_PER_ROUND
        for job in owed:
            room = EVENTS_PER_ROUND - len(events)
            if room <= 0:
                return _Round(events, marks, more=True)
            row = self._row(tx, job, room)
            if row:
                events.extend(row)
                marks[job.uid] = row[-1].sequence
                more |= row[-1].sequence < job.last_sequence
        return _Round(events, marks, more)

    def _row(self, tx: Transaction, job: Unpublished, room: int) -> list[StoredEvent]:
        held = self._recent.after(job.uid, job.published_sequence, limit=room)
        return list(held) if held is not None else tx.events_after(job.uid, job.published_sequence, limit=room)

    async def _check_stream(self) -> None:
        """A stream made anew (its store was lost) gets again what retention asks for."""
        self._stream_known = True  # first, so that a reconnection in the midst of it has it checked again
        stream = await self._bus.ensure_stream()
        since_us = self._clock.now_us() - int(self._pace.retention.total_seconds() * 1e6)

        def work(tx: Transaction) -> None:
            before = tx.meta(_META_STREAM)
            if before != stream.identity:
                if before:
                    tx.unpublish_since(since_us)
                tx.set_meta(_META_STREAM, stream.identity)

        await self._store.write(work)
