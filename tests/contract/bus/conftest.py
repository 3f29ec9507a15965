"""One suite over every bus: a kit for each, which can do to it what happens to a real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from controlplane.bus.connection import NatsAddress, connected
from controlplane.bus.memory import MemoryBus
from controlplane.bus.nats import NatsBus
from tests.support.eventually import eventually
from tests.support.natsd import Connections, Natsd, connections, natsd  # noqa: F401 - fixtures of this folder
from trainplane.wire import streams, subjects
from trainplane.wire.settling import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.aio.client import Client

    from controlplane.engine.ports import Bus

Message = tuple[str, str, bytes]
"""Subject, message id, payload."""


class BusKit(Protocol):
    bus: Bus

    async def messages(self) -> list[Message]:
        """All of the stream, in its order."""
        ...

    async def listen(self, node: str) -> Callable[[], Awaitable[int]]:
        """From now on counts the wakes of a node."""
        ...

    async def wipe(self) -> None:
        """Loses the store."""
        ...

    async def take_away(self) -> None:
        """Nobody answers any more."""
        ...

    async def bring_back(self) -> None: ...


@dataclass
class MemoryKit:
    bus: MemoryBus

    async def messages(self) -> list[Message]:
        return [(each.subject, each.message_id, each.payload) for each in self.bus.stream]

    async def listen(self, node: str) -> Callable[[], Awaitable[int]]:
        async def count() -> int:
            return self.bus.wakes.count(node)

        return count

    async def wipe(self) -> None:
        self.bus.wipe()

    async def take_away(self) -> None:
        self.bus.away = True

    async def bring_back(self) -> None:
        self.bus.away = False


async def read_stream(client: Client) -> list[Message]:
    """All of the events stream, read as any client may."""
    jetstream = client.jetstream()
    total = (await jetstream.stream_info(streams.EVENTS.name)).state.messages
    pulled = await jetstream.pull_subscribe(
        subjects.events(),
        stream=streams.EVENTS.name,
        config=ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL),
    )
    found: list[Message] = []
    while len(found) < total:
        some = await pulled.fetch(min(1_000, total - len(found)), timeout=60)
        found.extend((each.subject, each.headers["Nats-Msg-Id"], each.data) for each in some)
    return found


@dataclass
class NatsKit:
    bus: NatsBus
    server: Natsd
    connections: Connections
    kills: int = 0

    async def messages(self) -> list[Message]:
        return await read_stream(await self.connections.anonymous())

    async def listen(self, node: str) -> Callable[[], Awaitable[int]]:
        agent = await self.connections.node(node)
        heard: list[str] = []

        async def note(message: object) -> None:
            heard.append(str(message))

        await agent.subscribe(subjects.wake(node), cb=note)
        await settled(agent)

        async def count() -> int:
            return len(heard)

        return count

    async def wipe(self) -> None:
        self.server.wipe()
        await self._back()

    async def take_away(self) -> None:
        self.server.kill()

    async def bring_back(self) -> None:
        self.server.start()
        await self._back()

    async def _back(self) -> None:
        """Returns when the client has noticed that its connection was lost, and has a new one."""
        self.kills += 1
        client = self.bus._connection.client
        await eventually(lambda: client.is_connected and client.stats["reconnects"] == self.kills)


@pytest.fixture(params=["memory", "nats"])
async def kit(request: pytest.FixtureRequest) -> AsyncIterator[BusKit]:
    if request.param == "memory":
        yield MemoryKit(MemoryBus())
        return
    server: Natsd = request.getfixturevalue("natsd")
    opened = Connections(server)
    async with connected(NatsAddress(server.url, server.control_plane())) as connection:
        yield NatsKit(NatsBus(connection), server, opened)
        assert connection.violations == 0
    for client in opened.opened:
        await client.close()
