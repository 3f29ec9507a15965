"""A log that is followed through Envoy while its job runs: lines as they come, ids to resume from, and an end."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

from tests.support.eventually import eventually
from tests.support.stack import mock_spec


@asynccontextmanager
async def opened(stack, path, **headers):
    """A response that goes on, after its header; the body's chunks as they come."""
    reader, writer = await asyncio.open_connection(*stack.url.removeprefix("http://").split(":"))
    lines = [f"GET {path} HTTP/1.1", f"host: {stack.url[7:]}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    try:
        header = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode()
        assert header.startswith("HTTP/1.1 200"), header
        assert "content-type: text/event-stream" in header
        yield reader
    finally:
        writer.close()


def events(text):
    """(id, type, data) of each event."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "event" in fields:
            found.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


async def test_lines_come_while_the_job_runs_and_a_reader_resumes_from_the_last_it_saw(stack, node, tmp_path):
    spec = mock_spec("live-1", tmp_path / "out", steps=60, step_seconds=0.1, log_lines=1)
    assert stack.http("POST", "/train", json.dumps(spec).encode())[0] == 200
    async with opened(stack, "/train/live-1/logs:watch") as reader:
        early = ""
        while len(events(early)) < 3:
            early += (await asyncio.wait_for(reader.read(4096), 30)).decode()
        assert stack.http("GET", "/train/live-1")[1]["state"] == "RUNNING"
        whole = early + (await asyncio.wait_for(reader.read(), 60)).decode()
    *lines, (_, kind, _) = events(whole)
    assert kind == "end"
    assert stack.http("GET", "/train/live-1")[1]["state"] == "SUCCEEDED"
    kept = stack.http("GET", "/train/live-1/logs?page_size=5000")[1]["lines"]
    assert [data for _, _, data in lines] == kept
    assert len(kept) >= 60
    async with opened(stack, "/train/live-1/logs:watch", last_event_id=lines[20][0]) as reader:
        rest = events((await asyncio.wait_for(reader.read(), 20)).decode())
    assert rest[:-1] == lines[21:]


async def test_a_job_that_waits_has_a_silent_log_that_ends_with_it(stack, node, tmp_path):
    spec = mock_spec("live-2", tmp_path / "out") | {"placement": {"node": "nowhere"}}
    assert stack.http("POST", "/train", json.dumps(spec).encode())[0] == 200
    async with opened(stack, "/train/live-2/logs:watch") as reader:
        ended = asyncio.ensure_future(reader.read())
        await eventually(lambda: stack.http("GET", "/train/live-2")[1]["pending_reason"])
        assert not ended.done()
        stack.http("POST", "/train/live-2:cancel", b"{}")
        assert [kind for _, kind, _ in events((await asyncio.wait_for(ended, 10)).decode())] == ["end"]
