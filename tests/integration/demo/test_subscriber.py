"""The subscriber against a real nats-server with the configuration of `trainplane up`, as an anonymous client."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from trainplane.demo.subscriber import follow
from trainplane.wire import streams, subjects

if TYPE_CHECKING:
    from tests.support.natsd import Connections, Natsd


@pytest.fixture
async def operator(natsd: Natsd, connections: Connections):
    client = await connections.credentials(natsd.control_plane(), inbox_prefix=subjects.CONTROLPLANE_INBOX)
    await client.jetstream().add_stream(StreamConfig(name=streams.EVENTS.name, subjects=list(streams.EVENTS.subjects)))
    return client


async def publish(client, job_id: str, sequence: int, event_type: str) -> None:
    event = {"id": f"{job_id}.{sequence}", "type": event_type, "data": {"job_id": job_id, "sequence": sequence}}
    subject = subjects.event(project="default", job_id=job_id, event_type=event_type)
    await client.jetstream().publish(subject, json.dumps(event).encode())


async def sequences(natsd: Natsd, job_id: str) -> list[int]:
    return [event["data"]["sequence"] async for event in follow(natsd.url, job_id)]


async def test_a_late_subscriber_sees_one_job_from_its_first_event_to_its_last(natsd, operator):
    await publish(operator, "demo", 1, "job.queued")
    await publish(operator, "other", 1, "job.queued")
    await publish(operator, "demo", 2, "job.progress")
    await publish(operator, "demo", 3, "job.succeeded")
    assert await asyncio.wait_for(sequences(natsd, "demo"), 20) == [1, 2, 3]


async def test_what_is_published_while_it_follows_arrives_too_and_a_repeat_does_not(natsd, operator):
    await publish(operator, "demo", 1, "job.queued")
    async with aclosing(follow(natsd.url, "demo")) as events:
        assert (await asyncio.wait_for(anext(events), 20))["type"] == "job.queued"
        await publish(operator, "demo", 1, "job.queued")
        await publish(operator, "demo", 2, "job.failed")
        assert (await asyncio.wait_for(anext(events), 20))["type"] == "job.failed"
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(events), 20)


async def test_it_goes_on_after_the_broker_was_killed_and_restarted(natsd, operator, connections):
    await publish(operator, "demo", 1, "job.queued")
    async with aclosing(follow(natsd.url, "demo")) as events:
        assert (await asyncio.wait_for(anext(events), 20))["data"]["sequence"] == 1
        natsd.restart()
        again = await connections.credentials(natsd.control_plane(), inbox_prefix=subjects.CONTROLPLANE_INBOX)
        await publish(again, "demo", 2, "job.succeeded")
        assert (await asyncio.wait_for(anext(events), 60))["data"]["sequence"] == 2


async def test_it_waits_for_a_broker_that_starts_later(natsd, operator):
    await publish(operator, "demo", 1, "job.succeeded")
    await operator.close()
    natsd.stop()
    waiting = asyncio.create_task(sequences(natsd, "demo"))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    natsd.start()
    assert await asyncio.wait_for(waiting, 60) == [1]


async def test_it_says_that_the_stream_is_missing(natsd):
    with pytest.raises(NotFoundError):
        await asyncio.wait_for(sequences(natsd, "demo"), 60)
