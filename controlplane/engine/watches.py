"""Following one job's events: first all that are recorded, then live, in order, without a gap.

A hint wakes the watchers; what they get comes from `Recent` or SQL, never from the hint, so a lost one costs at most a
keep-alive's time. Watchers that need SQL at the same moment share one read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controlplane.domain.event import TERMINAL_TYPES

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

    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    reads: dict[int, asyncio.Future[Sequence[StoredEvent]]] = field(default_factory=dict)
    watchers: int = 0


class Watches:
    """Hands a job's events to any number of watchers."""

    def __init__(self, store: Store, *, recent: Recent) -> None:
        self._store = store
        self._recent = recent
        self._topics: dict[str, _Topic] = {}

    def hint(self, uids: Iterable[str]) -> None:
        """These jobs have new events."""
        for uid in uids:
            topic = self._topics.get(uid)
            if topic is not None:
                waiting, topic.waiting = topic.waiting, []
                for future in waiting:
                    if not future.done():
                        future.set_result(None)

    async def follow(self, uid: str, *, after: int) -> AsyncGenerator[Sequence[StoredEvent], None]:
        """Yields the events after a number, in order; an empty row is a keep-alive. Ends after the terminal event.

        Raises:
            StoreUnavailable: SQL is away; the watcher can resume from its number.
        """
        topic = self._topics.setdefault(uid, _Topic())
        topic.watchers += 1
        try:
            while True:
                hint = asyncio.get_running_loop().create_future()
                topic.waiting.append(hint)  # before reading, so that nothing falls between
                row = await self._row(topic, uid, after)
                if row:
                    yield row
                    after = row[-1].sequence
                    if row[-1].type in TERMINAL_TYPES:
                        return
                elif not await _within(hint, KEEP_ALIVE_SECONDS):
                    yield ()
                if not hint.done():
                    topic.waiting.remove(hint)
        finally:
            topic.watchers -= 1
            if not topic.watchers:
                self._topics.pop(uid, None)

    async def _row(self, topic: _Topic, uid: str, after: int) -> Sequence[StoredEvent]:
        held = self._recent.after(uid, after, limit=PAGE)
        if held is not None:
            return held
        reading = topic.reads.get(after)
        if reading is not None:
            return await asyncio.shield(reading)
        reading = topic.reads[after] = asyncio.get_running_loop().create_future()
        try:
            row = await self._store.read(lambda tx: tx.events_after(uid, after, limit=PAGE))
        except BaseException as error:
            reading.set_exception(error if isinstance(error, Exception) else ConnectionError("the reader went away"))
            reading.exception()  # seen, also where nobody shares the read
            raise
        else:
            reading.set_result(row)
        finally:
            del topic.reads[after]
        return row


async def _within(hint: asyncio.Future[None], seconds: float) -> bool:
    done, _ = await asyncio.wait([hint], timeout=seconds)
    return bool(done)
