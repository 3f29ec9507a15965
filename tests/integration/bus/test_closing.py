"""A connection that is closed while its server is away leaves nothing behind that would keep its process alive."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from agent.link import Link, LinkSettings
from controlplane.bus.connection import NatsAddress, connected
from tests.support.eventually import eventually


@asynccontextmanager
async def agents(natsd, tmp_path):
    credentials = tmp_path / "node.creds"
    credentials.write_text(natsd.node("gpu-01"))
    link = Link(LinkSettings(natsd.url, "gpu-01", credentials), woken=lambda: None, asked=lambda *_: None)
    await link.connect()
    yield
    await link.close()


def control_planes(natsd, tmp_path):
    return connected(NatsAddress(natsd.url, natsd.control_plane()))


def running(name):
    return [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == name]


@pytest.mark.parametrize("connection", [agents, control_planes])
@pytest.mark.parametrize("turns", [0, 1])
async def test_closed_in_the_turn_in_which_a_connection_is_refused_it_does_not_go_on_reconnecting(
    natsd, tmp_path, connection, turns
):
    async with connection(natsd, tmp_path):
        natsd.kill()
        while not (tries := running("open_connection")):
            await asyncio.sleep(0)
        while not tries[0].done():
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
    await eventually(lambda: not running("Client._attempt_reconnect"), deadline_seconds=5)
