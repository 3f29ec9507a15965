"""Hints inside one process: who has something new to do. A hint may be lost; every loop sweeps too."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


class Recent:
    """The newest committed events of the jobs that moved last, so that relay and watchers need not read SQL.

    Holds at most `limit` events in all; the job that moved longest ago goes first. What it answers is contiguous, or it
    answers None.
    """

    def __init__(self, *, limit: int = 20_000) -> None:
        self._limit = limit
        self._count = 0
        self._events: OrderedDict[str, deque[StoredEvent]] = OrderedDict()

    def add(self, events: Iterable[StoredEvent]) -> None:
        """Takes committed events, each job's in order. A gap (a lost announcement) starts the job's row anew."""
        for event in events:
            row = self._events.get(event.uid)
            if row is None:
                row = self._events[event.uid] = deque()
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
        return list(islice(row, start, start + limit))
