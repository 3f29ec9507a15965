"""The engine's `Bus` without a server, for tests of the engine. It passes the contract that the real one passes.

What a real bus does by itself is done here on request: `away` takes it away, `wipe` loses its store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.engine.ports import BusUnavailable, StreamState
from trainplane.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.event import StoredEvent


@dataclass(frozen=True, slots=True)
class Published:
    """One message of the stream."""

    subject: str
    message_id: str
    payload: bytes


class MemoryBus:
    """A bus in memory: lossless wakes, a stream that drops repeats."""

    def __init__(self) -> None:
        self.away = False
        """True: nobody answers."""
        self.wakes: list[str] = []
        """The nodes woken, in order."""
        self.stream: list[Published] = []
        self._made = 0
        self._exists = False
        self._known: set[str] = set()

    async def wake(self, node: str) -> None:
        """Notes a wake."""
        subjects.wake(node)
        if not self.away:
            self.wakes.append(node)

    async def ensure_stream(self) -> StreamState:
        """Makes the stream where it is missing."""
        self._require()
        made = not self._exists
        self._exists = True
        self._made += made
        return StreamState(identity=f"stream {self._made}", made=made)

    async def publish(self, events: Sequence[StoredEvent]) -> None:
        """Appends what is not there yet, in order."""
        self._require()
        if events and not self._exists:
            raise BusUnavailable("there is no stream")
        for event in events:
            message_id = f"{event.uid}.{event.sequence}"
            if message_id not in self._known:
                self._known.add(message_id)
                subject = subjects.event(project=event.project, job_id=event.job_id, event_type=event.type)
                self.stream.append(Published(subject, message_id, event.json.encode()))

    def wipe(self) -> None:
        """Loses the store, as a NATS server does whose disk is replaced."""
        self.stream.clear()
        self._known.clear()
        self._exists = False

    def _require(self) -> None:
        if self.away:
            raise BusUnavailable("away")
