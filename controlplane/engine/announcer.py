"""After a commit: who must know. The one list of listeners, called in the process that committed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from controlplane.domain.event import TERMINAL_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.event import StoredEvent
    from controlplane.engine.changes import Told
    from controlplane.engine.deliveries import Deliveries
    from controlplane.engine.dispatcher import Dispatcher
    from controlplane.engine.ports import Bus
    from controlplane.engine.prober import Prober
    from controlplane.engine.relay import Relay
    from controlplane.engine.signals import Hints, Recent
    from controlplane.engine.watches import Watches


class Announcer:
    """Wired by `controlplane.app` after its listeners exist; before that it tells nobody."""

    def __init__(self, *, recent: Recent, bus: Bus) -> None:
        self._recent = recent
        self._bus = bus
        self._wakes: asyncio.Queue[str] = asyncio.Queue(maxsize=10_000)
        self._dispatcher: Dispatcher | None = None
        self._relay: Relay | None = None
        self._watches: Watches | None = None
        self._deliveries: Deliveries | None = None
        self._prober: Prober | None = None
        self._log_hints: Hints | None = None

    def wire(
        self,
        *,
        dispatcher: Dispatcher,
        relay: Relay,
        watches: Watches,
        deliveries: Deliveries,
        prober: Prober,
        log_hints: Hints,
    ) -> None:
        """Names the listeners."""
        self._log_hints = log_hints
        self._dispatcher, self._relay, self._watches, self._deliveries = dispatcher, relay, watches, deliveries
        self._prober = prober

    def __call__(self, told: Told) -> None:
        """Tells what a committed transaction did. Never blocks, never raises; sweeps make up for what is dropped."""
        if told.events:
            self._tell_of(told.events)
        for node in told.wake:
            if not self._wakes.full():
                self._wakes.put_nowait(node)
        if told.probe and self._prober is not None:
            self._prober.ask(told.probe)
        if self._dispatcher is not None:
            if told.capacity:
                self._dispatcher.capacity_grew()
            elif told.queue:
                self._dispatcher.bell.ring()

    def _tell_of(self, events: Sequence[StoredEvent]) -> None:
        self._recent.add(events)
        if self._watches is not None:
            self._watches.hint({event.uid for event in events})
        if self._log_hints is not None:
            # Who follows a log waits for its job's end, too.
            self._log_hints.give([event.uid for event in events if event.type in TERMINAL_TYPES])
        if self._relay is not None:
            self._relay.bell.ring()
        if self._deliveries is not None:
            self._deliveries.bell.ring()

    async def run(self) -> None:
        """The loop: sends the wakes."""
        while True:
            await self._bus.wake(await self._wakes.get())
