"""Server-sent events through the gateway: as they come, as long as they last, and never at others' expense."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.launcher import render
from gateway.settings import Settings
from tests.integration.gateway.wire import call, opened, read_chunk

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEEP_ALIVE_SECONDS = 30


async def test_an_event_is_seen_before_the_next_is_sent_and_after_the_time_that_calls_have(gateway, control_plane):
    jobs = control_plane.jobs
    jobs.next_event.clear()
    async with opened(gateway, "/train/abc:watch") as (status, headers, reader):
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        first = await asyncio.wait_for(read_chunk(reader), 10)
        assert first == b"id: 1\nevent: job.progress\ndata: {}\n\n"
        # A call that begins after the stream runs into the time limit; the stream goes on.
        assert (await call(gateway, "GET", "/train/hangs")).status == 504
        jobs.next_event.set()
        second = await asyncio.wait_for(read_chunk(reader), 10)
        assert second.startswith(b"id: 2\n")
        assert await asyncio.wait_for(read_chunk(reader), 10) == b""


async def test_last_event_id_and_after_sequence_reach_the_control_plane(gateway, control_plane):
    async with opened(gateway, "/train/abc:watch?after_sequence=7", last_event_id="12") as (status, _, _reader):
        assert status == 200
    assert control_plane.seen.metadata["last-event-id"] == "12"
    assert control_plane.seen.request.after_sequence == 7


async def test_where_a_log_is_resumed_reaches_the_control_plane(gateway, control_plane):
    async with opened(gateway, "/train/abc/logs:watch?position=1.0-5", last_event_id="2.0-77") as (
        status,
        headers,
        got,
    ):
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert await asyncio.wait_for(read_chunk(got), 10) == b"event: end\ndata: {}\n\n"
    assert control_plane.seen.metadata["last-event-id"] == "2.0-77"
    assert (control_plane.seen.request.job_id, control_plane.seen.request.position) == ("abc", "1.0-5")


async def test_a_reader_that_goes_away_ends_the_call(gateway, control_plane):
    jobs = control_plane.jobs
    jobs.next_event.clear()
    async with opened(gateway, "/train/abc:watch") as (_, _, reader):
        await asyncio.wait_for(read_chunk(reader), 10)
        jobs.ended.clear()
    await asyncio.wait_for(jobs.ended.wait(), 10)


async def test_an_error_before_the_first_event_is_an_ordinary_answer(gateway):
    answer = await call(gateway, "GET", "/train/missing:watch")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json == {"code": 5, "message": "no such job", "details": []}


async def test_a_reader_that_does_not_read_holds_the_control_plane_back_and_nobody_else(gateway, control_plane):
    jobs = control_plane.jobs
    async with opened(gateway, "/train/endless:watch") as (status, _, _reader):
        assert status == 200
        # 64 MiB are on offer; kernel and gateway take what fits their buffers, then the server's write waits.
        await asyncio.wait_for(jobs.held_back.wait(), 30)
        assert (await call(gateway, "GET", "/train/abc")).status == 200
        jobs.next_event.set()
        assert (await call(gateway, "GET", "/train/abc:watch")).status == 200


async def test_a_stream_may_be_silent_for_longer_than_the_keep_alives_and_has_no_end():
    config = json.loads(render(Settings()))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = {
        route["name"]: route for route in manager["route_config"]["virtual_hosts"][0]["routes"] if "name" in route
    }
    watch = routes["trainplane.v1.JobService/StreamEvents"]["route"]
    assert float(watch["timeout"].removesuffix("s")) == 0
    assert float(watch["idle_timeout"].removesuffix("s")) > 2 * KEEP_ALIVE_SECONDS
    assert routes["trainplane.v1.JobService/StreamLogs"]["route"] == watch
    unary = routes["trainplane.v1.JobService/GetJob"]["route"]
    assert unary["timeout"] == "15s"
