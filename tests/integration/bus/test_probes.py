"""Questions to nodes over the real server, with the users' real permissions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from controlplane.bus.connection import Connection, NatsAddress, connected
from controlplane.bus.probes import NatsProbes
from controlplane.engine.probing import Finding, Probed
from tests.support.eventually import eventually
from trainplane.wire import subjects
from trainplane.wire.settling import settled
from trainplane.wire.v1 import probe_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.natsd import Connections, Natsd


@pytest.fixture
async def connection(natsd: Natsd) -> AsyncIterator[Connection]:
    async with connected(NatsAddress(natsd.url, natsd.control_plane())) as made:
        yield made
        assert made.violations == 0


async def node(connections: Connections, answer: bytes, *, name: str = "gpu-01") -> list[bytes]:
    """A node that answers every question so; what it was asked."""
    client = await connections.node(name)
    asked: list[bytes] = []

    async def hear(message: Any) -> None:
        asked.append(probe_pb2.ProbeRequest.FromString(message.data).sealed)
        await client.publish(message.reply, answer)

    await client.subscribe(subjects.probe(name), cb=hear)
    await settled(client)
    return asked


async def test_a_node_is_asked_and_its_answer_is_heard(connection: Connection, connections: Connections) -> None:
    reply = probe_pb2.ProbeReply(outcome="FAILED", reason="MODEL_NOT_FOUND", message="base_model.model_name: none")
    asked = await node(connections, reply.SerializeToString())
    found = await NatsProbes(connection).probe("gpu-01", b"sealed", seconds=60)
    assert found == Probed("FAILED", "MODEL_NOT_FOUND", "base_model.model_name: none")
    assert asked == [b"sealed"]


async def test_a_preflight_s_findings_and_facts_are_heard(connection: Connection, connections: Connections) -> None:
    findings = [
        probe_pb2.ProbeReply.Finding(check="model", outcome="PASSED"),
        probe_pb2.ProbeReply.Finding(check="output", outcome="FAILED", reason="STORAGE_DENIED", message="no\0"),
        probe_pb2.ProbeReply.Finding(check="of a later agent"),
    ]
    reply = probe_pb2.ProbeReply(outcome="PASSED", findings=findings, facts='{"model": {}}')
    await node(connections, reply.SerializeToString())
    found = await NatsProbes(connection).probe("gpu-01", b"sealed", seconds=60)
    assert found is not None
    assert found.findings == (Finding("model", "PASSED"), Finding("output", "FAILED", "STORAGE_DENIED", "no\ufffd"))
    assert found.facts == '{"model": {}}'


async def test_many_questions_at_once_get_their_own_answers(connection: Connection, connections: Connections) -> None:
    names = [f"gpu-{number:02}" for number in range(8)]
    for name in names:
        await node(connections, probe_pb2.ProbeReply(outcome="SKIPPED", message=name).SerializeToString(), name=name)
    probes = NatsProbes(connection)
    found = await asyncio.gather(*(probes.probe(name, b"", seconds=60) for name in names))
    assert [each.message if each else None for each in found] == names


@pytest.mark.parametrize("answer", [b"\xff\xff", b"", bytes(400_000)])
async def test_an_answer_that_makes_no_sense_is_none(
    connection: Connection, connections: Connections, answer: bytes
) -> None:
    await node(connections, answer)
    assert await NatsProbes(connection).probe("gpu-01", b"", seconds=60) is None


async def test_a_node_that_comes_a_little_later_is_asked_again(
    connection: Connection, connections: Connections
) -> None:
    told = connection.client.stats["in_msgs"]
    waiting = asyncio.create_task(NatsProbes(connection).probe("gpu-01", b"", seconds=60))
    # The server's word that nobody hears the question.
    await eventually(lambda: connection.client.stats["in_msgs"] > told)
    await node(connections, probe_pb2.ProbeReply(outcome="PASSED").SerializeToString())
    assert await waiting == Probed("PASSED")


async def test_nobody_there_is_no_answer(connection: Connection) -> None:
    assert await NatsProbes(connection).probe("gpu-01", b"", seconds=0.1) is None


async def test_a_lost_connection_is_no_answer(connection: Connection, connections: Connections, natsd: Natsd) -> None:
    waiting = asyncio.create_task(NatsProbes(connection).probe("gpu-01", b"", seconds=60))
    while connection.client._subs == {}:
        await asyncio.sleep(0)
    natsd.kill()
    assert await waiting is None
    natsd.start()
