"""The engine's `Bus` over NATS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nats.errors

from controlplane.bus.stream import EventStream
from trainplane.wire import streams, subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.bus.connection import Connection
    from controlplane.domain.event import StoredEvent
    from controlplane.engine.ports import StreamState


class NatsBus:
    """See `controlplane.engine.ports.Bus`."""

    def __init__(self, connection: Connection) -> None:
        self.stream = EventStream(connection, streams.EVENTS)
        self._connection = connection

    async def wake(self, node: str) -> None:
        """Asks a node to sync now. While the connection is away, nothing is sent: the node syncs by itself."""
        client = self._connection.client
        if client.is_connected:
            try:
                await client.publish(subjects.wake(node), b"")
            except (nats.errors.Error, OSError):
                return  # it was lost, as it may be

    async def ensure_stream(self) -> StreamState:
        """Makes the events stream where it is missing; see the port."""
        return await self.stream.ensure()

    async def publish(self, events: Sequence[StoredEvent]) -> None:
        """Publishes in order and returns when JetStream has all of them; see the port."""
        await self.stream.publish(events)
