"""Publishing when JetStream does not answer, was set up otherwise, or dies in the middle."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from controlplane.bus.connection import Connection, NatsAddress, connected
from controlplane.bus.stream import EventStream
from controlplane.domain.event import StoredEvent
from controlplane.engine.ports import BusUnavailable
from tests.support.eventually import eventually
from trainplane.wire import streams, subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.natsd import Connections, Natsd


def events(first: int, last: int, *, uid: str = "01J") -> list[StoredEvent]:
    return [
        StoredEvent(uid, "default", "job", sequence, "job.progress", 0, f'{{"n":{sequence}}}')
        for sequence in range(first, last + 1)
    ]


@pytest.fixture
async def connection(natsd: Natsd) -> AsyncIterator[Connection]:
    async with connected(NatsAddress(natsd.url, natsd.control_plane())) as one:
        yield one
        assert one.violations == 0


async def stored(connections: Connections) -> list[Any]:
    """Every message of the stream, as an anonymous client reads it."""
    jetstream = (await connections.anonymous()).jetstream()
    total = (await jetstream.stream_info(streams.EVENTS.name)).state.messages
    pulled = await jetstream.pull_subscribe(
        subjects.events(), stream=streams.EVENTS.name, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
    )
    found: list[Any] = []
    while len(found) < total:
        found += await pulled.fetch(min(500, total - len(found)), timeout=60)
    return found


def ids(messages: list[Any]) -> list[str]:
    return [message.headers["Nats-Msg-Id"] for message in messages]


@pytest.mark.parametrize("count", [1, 50])
async def test_a_message_says_its_content_type_and_its_event(
    connection: Connection, connections: Connections, count: int
) -> None:
    stream = EventStream(connection, streams.EVENTS)
    await stream.ensure()
    await stream.publish(events(1, count))
    message = (await stored(connections))[0]
    assert message.headers["content-type"] == "application/cloudevents+json"
    assert message.headers["Nats-Msg-Id"] == "01J.1"


async def test_few_events_go_singly_and_many_as_one_batch(connection: Connection) -> None:
    stream = EventStream(connection, streams.EVENTS)
    await stream.ensure()
    await stream.publish(events(1, 8))
    assert stream.singly == 8
    await stream.publish(events(9, 1_508))
    assert stream.singly == 8
    await stream.publish(events(1_500, 1_520))
    assert stream.singly == 8 + 21


async def test_a_batch_that_was_not_answered_and_arrives_late_is_there_once_and_in_order(
    natsd: Natsd, connection: Connection, connections: Connections
) -> None:
    patient = EventStream(connection, streams.EVENTS, answer_seconds=30)
    await patient.ensure()
    await patient.publish(events(1, 20))
    natsd.pause()
    with pytest.raises(BusUnavailable):
        await EventStream(connection, streams.EVENTS, answer_seconds=0.2).publish(events(21, 60))
    natsd.resume()
    await patient.publish(events(21, 100))
    assert ids(await stored(connections)) == [f"01J.{number}" for number in range(1, 101)]


async def test_killed_again_and_again_while_publishing_nothing_acknowledged_is_lost_doubled_or_out_of_order(
    natsd: Natsd, connection: Connection, connections: Connections
) -> None:
    stream = EventStream(connection, streams.EVENTS, answer_seconds=2)
    await stream.ensure()
    acknowledged, kills = 0, 0

    async def publisher() -> None:
        nonlocal acknowledged
        while kills < 4 or acknowledged < 2_000:
            try:
                await stream.publish(events(acknowledged + 1, acknowledged + 97))
                acknowledged += 97
            except BusUnavailable:
                await asyncio.sleep(0.01)

    publishing = asyncio.create_task(publisher())
    while kills < 4:
        before = acknowledged
        await eventually(lambda before=before: acknowledged > before + 97)
        natsd.kill()
        natsd.start()
        kills += 1
    await asyncio.wait_for(publishing, timeout=60)
    got = ids(await stored(connections))
    assert got == [f"01J.{number}" for number in range(1, acknowledged + 1)]


async def test_settings_of_an_earlier_version_are_brought_up_to_date_without_losing_events(
    connection: Connection, connections: Connections
) -> None:
    earlier = EventStream(connection, replace(streams.EVENTS, max_age=timedelta(days=1), max_bytes=1024**2))
    before = await earlier.ensure()
    await earlier.publish(events(1, 3))
    now = EventStream(connection, streams.EVENTS)
    after = await now.ensure()
    assert (after.made, after.identity) == (False, before.identity)
    info = await (await connections.anonymous()).jetstream().stream_info(streams.EVENTS.name)
    assert info.config.max_age == streams.EVENTS.max_age.total_seconds()
    assert info.config.max_bytes == streams.EVENTS.max_bytes
    assert info.config.allow_atomic
    assert info.state.messages == 3


async def test_a_lost_connection_ends_a_wait_at_once(natsd: Natsd, connection: Connection) -> None:
    stream = EventStream(connection, streams.EVENTS, answer_seconds=60)
    await stream.ensure()
    natsd.pause()
    waiting = asyncio.create_task(stream.publish(events(1, 1)))
    await eventually(lambda: connection._waiting)
    natsd.kill()
    with pytest.raises(BusUnavailable):
        await asyncio.wait_for(waiting, timeout=60)


async def test_a_cancelled_publish_leaves_nothing_behind(natsd: Natsd, connection: Connection) -> None:
    stream = EventStream(connection, streams.EVENTS, answer_seconds=60)
    await stream.ensure()
    natsd.pause()
    waiting = asyncio.create_task(stream.publish(events(1, 1)))
    await eventually(lambda: connection._waiting)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert not connection._waiting
    natsd.resume()
    await stream.publish(events(1, 2))


async def test_a_live_subscriber_hears_a_batch_in_order(connection: Connection, connections: Connections) -> None:
    stream = EventStream(connection, streams.EVENTS)
    await stream.ensure()
    reader = await connections.anonymous()
    heard = await reader.subscribe(subjects.events(job_id="job"))
    await reader.flush()
    await reader.flush()
    await stream.publish(events(1, 300))
    got = [(await heard.next_msg(timeout=60)).data for _ in range(300)]
    assert got == [event.json.encode() for event in events(1, 300)]
