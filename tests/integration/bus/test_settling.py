"""Whether the server knows of a subscription, seen on the wire."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from nats.aio.client import Client, RawCredentials

from trainplane.wire import subjects
from trainplane.wire.settling import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.natsd import Natsd


@asynccontextmanager
async def tapped(natsd: Natsd) -> AsyncIterator[tuple[str, bytearray]]:
    """The URL of a way to the server, and what went to it there so far."""
    sent = bytearray()
    ways: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                record += data
                writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, out = await asyncio.open_connection("127.0.0.1", natsd.port)
        for source, target, record in ((reader, out, sent), (back, writer, bytearray())):
            ways.add(asyncio.create_task(pass_on(source, target, record)))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent
    await asyncio.gather(*ways)


async def test_the_server_has_answered_after_it_was_told_of_a_subscription(natsd: Natsd) -> None:
    async with tapped(natsd) as (url, sent):
        client = Client()
        await client.connect(
            url, user_credentials=RawCredentials(natsd.node("gpu-01")), inbox_prefix=subjects.inbox_prefix("gpu-01")
        )
        try:
            await client.subscribe(subjects.probe("gpu-01"))
            await settled(client)
            assert b"PING" in sent.partition(b"SUB ")[2]
        finally:
            await client.close()
