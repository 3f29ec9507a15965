"""Following one job's events: first all that are recorded, then live, in order, without a gap.

A hint wakes the watchers; what they get comes from `Recent` or SQL, never from the hint, so a lost one costs at most a
keep-alive's time. Watchers that need SQL at the same moment share one read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controlplane.domain.event import TERMINAL_TYPES
from controlplane.engine.signals import within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from controlplane.domain.event import StoredEvent
    from controlplane.engine.ports import Store
    from controlplane.engine.signals import Recent

KEEP_ALIVE_SECONDS = 15.0
PAGE = 500


@dataclass(slots=True)
class _Topic:
    """The watchers of one job."""

    waiting: set[asyncio.Future[bool]] = field(default_factory=set)
    reads: dict[int, asyncio.Future[Sequence[StoredEvent] | None]] = field(default_factory=dict)
    """By the number they read after; None: the reader went away."""
    watchers: int = 0


class Watches:
    """Hands a job's events to any number of watchers."""

    def __init__(self, store: Store, *, recent: Recent, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self._store = store
        self._recent = recent
        self._keep_alive_seconds = keep_alive_seconds
        self._topics: dict[str, _Topic] = {}

    def hint(self, uids: Iterable[str]) -> None:
        """These jobs have new events."""
        for uid in uids:
            topic = self._topics.get(uid)
            if topic is not None:
                waiting, topic.waiting = topic.waiting, set()
                for future in waiting:
                    if not future.done():
                        future.set_result(True)

    async def follow(self, uid: str, *, after: int) -> AsyncGenerator[Sequence[StoredEvent], None]:
        """Yields the events after a number, in order; an empty row is a keep-alive. Ends after the terminal event.

        Who has seen all there is gets a keep-alive at once: until something is sent, HTTP has not even headers.

        Close it when you leave it early: it holds a place among the job's watchers.

        Raises:
            StoreUnavailable: SQL is away; the watcher can resume from its number.
        """
        topic = self._topics.setdefault(uid, _Topic())
        topic.watchers += 1
        hint = asyncio.get_running_loop().create_future()
        greeted, quiet = False, True
        try:
            while True:
                hint = asyncio.get_running_loop().create_future()
                topic.waiting.add(hint)  # before reading, so that nothing falls between
                # SQL is asked at first and after each quiet time; between, what was announced is all there is. So a
                # thousand watchers that have had an event do not read SQL a thousand times to find nothing.
                told = not quiet and self._recent.newest(uid) == after
                row = () if told else await self._row(topic, uid, after)
                if row:
                    yield row
                    after, greeted, quiet = row[-1].sequence, True, False
                    if row[-1].type in TERMINAL_TYPES:
                        return
                elif quiet and await self._is_over(uid, after):
                    return
                else:
                    if not greeted:
                        greeted = True
                        yield ()
                    quiet = not await within(hint, self._keep_alive_seconds)
                    if quiet:
                        yield ()
                topic.waiting.discard(hint)
        finally:
            topic.waiting.discard(hint)
            topic.watchers -= 1
            if not topic.watchers:
                self._topics.pop(uid, None)

    async def _is_over(self, uid: str, after: int) -> bool:
        """Whether nothing can follow: asked for by who resumes from the terminal event, or even beyond."""
        job = await self._store.read(lambda tx: tx.job(uid))
        return job is None or (job.terminal and job.last_sequence <= after)

    async def _row(self, topic: _Topic, uid: str, after: int) -> Sequence[StoredEvent]:
        while True:
            held = self._recent.after(uid, after, limit=PAGE)
            if held is not None:
                return held
            reading = topic.reads.get(after)
            if reading is None:
                return await self._read(topic, uid, after)
            row = await asyncio.shield(reading)
            if row is not None:
                return row

    async def _read(self, topic: _Topic, uid: str, after: int) -> Sequence[StoredEvent]:
        """Reads SQL for all who ask for the same meanwhile."""
        reading = topic.reads[after] = asyncio.get_running_loop().create_future()
        try:
            row = await self._store.read(lambda tx: tx.events_after(uid, after, limit=PAGE))
        except BaseException as error:
            if isinstance(error, Exception):
                reading.set_exception(error)
                reading.exception()  # seen, also where nobody shares the read
            else:
                reading.set_result(None)  # this watcher was cancelled: one of the others reads
            raise
        else:
            reading.set_result(row)
        finally:
            del topic.reads[after]
        return row
