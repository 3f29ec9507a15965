"""Hints inside one process: who has something new to do. A hint may be lost; every loop sweeps too."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from controlplane.domain.event import StoredEvent


class Bell:
    """Rung by many, heard by one loop: rings between two waits are one.

    After a quiet moment a ring is heard at once; else `pace_seconds` after the listener was last done, so that under
    load its rounds grow instead of their number.
    """

    def __init__(self, *, pace_seconds: float = 0.0) -> None:
        self._rung = asyncio.Event()
        self._pace_seconds = pace_seconds

    def ring(self) -> None:
        """Wakes the waiter, now or at its next wait."""
        self._rung.set()

    async def wait(self, seconds: float, *, pace_seconds: float | None = None) -> bool:
        """Waits for a ring, at most so long; answers whether there was one.

        Args:
            seconds: how long at most.
            pace_seconds: instead of the bell's own, this once.
        """
        loop = asyncio.get_running_loop()
        earliest = loop.time() + (self._pace_seconds if pace_seconds is None else pace_seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        early = earliest - loop.time()
        if early > 0:
            await asyncio.sleep(early)
        self._rung.clear()
        return True


class Hints:
    """Tells those who wait for news of a job that there may be some. Who is told looks by itself."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[bool]]] = {}

    def give(self, keys: Iterable[str]) -> None:
        """There may be news of these."""
        for key in keys:
            for future in self._waiting.pop(key, ()):
                if not future.done():
                    future.set_result(True)

    @contextmanager
    def expected(self, key: str) -> Iterator[asyncio.Future[bool]]:
        """A future that the next hint for the key fulfils, for the time of the context."""
        hint = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(hint)
        try:
            yield hint
        finally:
            others = self._waiting.get(key)
            if others is not None:
                others.discard(hint)
                if not others:
                    del self._waiting[key]


async def within(hint: asyncio.Future[bool], seconds: float) -> bool:
    """Whether the hint came in time. One timer: `asyncio.wait` and `asyncio.timeout` cost several times as much."""
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, hint)
    try:
        return await hint
    finally:
        timer.cancel()


def _give_up(hint: asyncio.Future[bool]) -> None:
    if not hint.done():
        hint.set_result(False)


class Recent:
    """The newest committed events of the jobs that moved last, so that relay and watchers need not read SQL.

    Holds at most `limit` events in all; the job that moved longest ago goes first. What it answers is contiguous, or it
    answers None.
    """

    def __init__(self, *, limit: int = 20_000) -> None:
        self._limit = limit
        self._count = 0
        self._events: OrderedDict[str, list[StoredEvent]] = OrderedDict()

    def add(self, events: Iterable[StoredEvent]) -> None:
        """Takes committed events, each job's in order. A gap (a lost announcement) starts the job's row anew."""
        for event in events:
            row = self._events.get(event.uid)
            if row is None:
                row = self._events[event.uid] = []
            elif row[-1].sequence >= event.sequence:
                continue
            elif row[-1].sequence + 1 != event.sequence:
                self._count -= len(row)
                row.clear()
            row.append(event)
            self._count += 1
            self._events.move_to_end(event.uid)
        while self._count > self._limit:
            self._count -= len(self._events.popitem(last=False)[1])

    def newest(self, uid: str) -> int:
        """The number of the job's newest event, as far as it is known here; 0: it is not."""
        row = self._events.get(uid)
        return row[-1].sequence if row else 0

    def after(self, uid: str, sequence: int, *, limit: int) -> Sequence[StoredEvent] | None:
        """The events that follow `sequence`, at most `limit`; None: not all are held, or none is known to follow."""
        row = self._events.get(uid)
        if not row or row[0].sequence > sequence + 1 or row[-1].sequence <= sequence:
            return None
        start = sequence + 1 - row[0].sequence
        return row[start : start + limit]
