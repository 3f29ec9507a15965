"""Reports of many trainers, through files, NATS, SQL and JetStream, to a watcher: how many a second, and how late.

    trainers ──► reports.jsonl ──► agent ──► NATS ──► control plane ──► SQL (FULL) ──► watcher, in another process
                                                              └──► JetStream (flushed, acknowledged)

Nothing may be lost, doubled or coalesced: each trainer numbers its reports, and what the watcher got is held against
the trainers' own files. The rate is counted over the time in which every trainer wrote.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.api.httpbody_pb2 import HttpBody

from bench import machine
from bench.attempts import seconds_of
from bench.figures import percentile, spread_ms
from bench.peers import peer
from bench.report import Line
from bench.watching import End, Watch, read
from tests.support.stack import Stack, mock_spec
from trainplane.v1 import job_service_pb2_grpc
from trainplane.wire import subjects
from trainplane.wire.streams import EVENTS

if TYPE_CHECKING:
    from pathlib import Path

NAME = "events"
RATE = 5_000
RATE_SECONDS = 30.0
AT_ONCE = 10
LATENCY_RATE = 200
LATENCY_SECONDS = 15.0
LATENCY_LIMIT_SECONDS = 0.1
CAUGHT_UP_SECONDS = 30.0
_LIFECYCLE = ["job.queued", "job.starting"]
"""What the control plane records before a trainer's first report."""


@dataclass(frozen=True, slots=True)
class _Flood:
    """So many trainers, each writing at a rate for a time."""

    jobs: int
    per_second: float
    seconds: float
    at_once: int = 1
    """How many a trainer writes without a pause: one by one, 27 processes would be a good part of what is measured."""

    @property
    def reports(self) -> int:
        """Of each trainer, beside those of its start."""
        return int(self.per_second * self.seconds)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was measured of a flood, after everything was held against the files."""

    written: dict[str, list[float]]
    """When each report of a job was written."""
    received: dict[str, list[float]]
    """When the watcher had it."""
    stored: int
    """Messages in JetStream at the end, as many as there are events."""
    behind_seconds: float
    """How long after the watcher's last event JetStream had all."""
    busy: str

    def window(self) -> tuple[float, float]:
        """From the last trainer's first report to the first one's last."""
        return max(times[0] for times in self.written.values()), min(times[-1] for times in self.written.values())

    def latencies(self) -> list[float]:
        """Of each report."""
        return [
            received - written
            for job, times in self.written.items()
            for written, received in zip(times, self.received[job], strict=True)
        ]


def measure(directory: Path) -> list[Line]:
    """First the rate, then the latency at a small one; each with parts of its own."""
    # More than is asked for, and longer, because the trainers begin one after the other.
    full = _flooded(directory / "rate", _Flood(27, RATE * 1.04 / 27, RATE_SECONDS + 8, at_once=AT_ONCE))
    calm = _flooded(directory / "latency", _Flood(10, LATENCY_RATE / 10, LATENCY_SECONDS))
    return [_rate(full), _latency(calm)]


def _rate(found: _Found) -> Line:
    start, end = found.window()
    count = sum(start <= at < end for times in found.received.values() for at in times)
    rate = count / (end - start)
    total = sum(map(len, found.written.values()))
    return Line(
        NAME,
        f"events a second, trainer to watcher, {len(found.written)} jobs at once, over {end - start:.0f} s; "
        f"{total:,} distinct reports, written {AT_ONCE} at a time, gapless, none coalesced; "
        f"{found.stored:,} events in JetStream",
        f"{rate:,.0f}/s; {spread_ms(found.latencies())}; JetStream had all {found.behind_seconds:.1f} s after the "
        f"watcher; {found.busy}",
        f"at least {RATE:,}/s for {RATE_SECONDS:.0f} s",
        passed=rate >= RATE and end - start >= RATE_SECONDS,
        ratio=rate / RATE,
    )


def _latency(found: _Found) -> Line:
    latencies = found.latencies()
    worst = percentile(latencies, 99)
    return Line(
        NAME,
        f"from the trainer's line to the watcher, {LATENCY_RATE} reports a second, {len(latencies):,} reports",
        spread_ms(latencies),
        f"p99 under {LATENCY_LIMIT_SECONDS * 1e3:.0f} ms",
        passed=worst < LATENCY_LIMIT_SECONDS,
        ratio=worst / LATENCY_LIMIT_SECONDS,
    )


def _flooded(directory: Path, flood: _Flood) -> _Found:
    stack = Stack(directory)
    with ExitStack() as opened:
        opened.callback(stack.stop)
        stack.start(gateway=False)
        uids = _submit(stack.address, directory / "outputs", flood)
        watcher = opened.enter_context(peer("bench.watching"))
        watcher.tell(asdict(Watch(stack.address, list(uids), 4, str(directory / "seen.jsonl"))))
        assert watcher.line() == "watching"
        agent = stack.join("node-1", "--gpus", "0", "--cpus", "256")
        attempts = {job: directory / "node-1" / "attempts" / f"{uid}.1" for job, uid in uids.items()}
        assert stack.controlplane.process is not None
        assert agent.process is not None
        pids = {
            "control plane": stack.controlplane.process.pid,
            "agent": agent.process.pid,
            "watcher": watcher.pid,
        }
        busy = _busy(pids, flood.seconds)
        written = {job: _written(path, flood, deadline_seconds=60.0) for job, path in attempts.items()}
        stored = asyncio.run(_stored(stack, sum(map(len, written.values())) + len(_LIFECYCLE) * flood.jobs))
        caught_up = time.time()
        due = {job: len(lines) + len(_LIFECYCLE) for job, lines in written.items()}
        watcher.tell(asdict(End(due, CAUGHT_UP_SECONDS)))
        seen = {stream["job_id"]: stream["seen"] for stream in read(watcher.line())}
        received = {job: _received(job, lines, seen[job]) for job, lines in written.items()}
        last = max(times[-1] for times in received.values())
        times = {job: [seconds_of(line["time"]) for line in lines if _counts(line)] for job, lines in written.items()}
        return _Found(times, received, stored, max(0.0, caught_up - last), busy)


def _submit(address: str, outputs: Path, flood: _Flood) -> dict[str, str]:
    """job_id -> uid. Each trainer waits at its first step, so that its file is there until it was read."""
    uids = {}
    with grpc.insecure_channel(address) as channel:
        jobs = job_service_pb2_grpc.JobServiceStub(channel)
        for number in range(flood.jobs):
            job_id = f"flood-{number}"
            knobs = {"reports_per_second": flood.per_second, "report_seconds": flood.seconds, "hang_at_step": 1}
            knobs["reports_at_once"] = flood.at_once
            body = json.dumps(mock_spec(job_id, outputs / job_id, **knobs)).encode()
            uids[job_id] = jobs.SubmitTraining(HttpBody(content_type="application/json", data=body)).uid
    return uids


def _busy(pids: dict[str, int], seconds: float) -> str:
    """What part of a core each takes, over the flood's time."""
    began, before = time.monotonic(), {name: machine.cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    passed = time.monotonic() - began
    return ", ".join(
        f"{name} {(machine.cpu_seconds(pid) - before[name]) / passed:.2f} of a core" for name, pid in pids.items()
    )


def _written(attempt: Path, flood: _Flood, *, deadline_seconds: float) -> list[dict[str, Any]]:
    """Every line of a trainer's file, once it has written all of them."""
    end = time.monotonic() + deadline_seconds
    path = attempt / "reports.jsonl"
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and f"report {flood.reports}" in lines[-1]:
            return [json.loads(line) for line in lines]
        assert time.monotonic() < end, f"{attempt.name} wrote {len(lines)} lines of {flood.reports}"
        time.sleep(0.1)


async def _stored(stack: Stack, events: int) -> int:
    """Waits until JetStream has as many messages as there are events."""
    client = await stack.natsd.connect(stack.natsd.control_plane(), inbox_prefix=subjects.CONTROLPLANE_INBOX)
    try:
        end = time.monotonic() + CAUGHT_UP_SECONDS
        while True:
            messages = (await client.jetstream().stream_info(EVENTS.name)).state.messages
            if messages >= events:
                assert messages == events, f"JetStream has {messages} messages of {events} events"
                return messages
            assert time.monotonic() < end, f"JetStream has {messages} messages of {events} events"
            await asyncio.sleep(0.02)
    finally:
        await client.close()


def _gap(numbers: list[int], lines: int) -> str:
    expected = range(1, lines + len(_LIFECYCLE) + 1)
    first = next((number for number, due in zip(numbers, expected, strict=False) if number != due), None)
    return f"{len(numbers)} events for {lines} lines, " + ("cut short" if first is None else f"out of order at {first}")


def _counts(line: dict[str, Any]) -> bool:
    return line["kind"] == "warning"


def _received(job_id: str, lines: list[dict[str, Any]], seen: list[dict[str, Any]]) -> list[float]:
    """When each counted report came; every event and its order is held against the trainer's lines.

    Raises:
        AssertionError: an event is missing, doubled, out of order, or says something else.
    """
    events = [event for event in seen if event["sequence"]]
    numbers = [event["sequence"] for event in events]
    assert numbers == list(range(1, len(lines) + len(_LIFECYCLE) + 1)), f"{job_id}: {_gap(numbers, len(lines))}"
    assert [event["type"] for event in events[: len(_LIFECYCLE)]] == _LIFECYCLE, f"{job_id}: {events[:3]}"
    for line, event in zip(lines, events[len(_LIFECYCLE) :], strict=True):
        assert not _counts(line) or event["message"] == line["message"], f"{job_id}: {line} became {event}"
    return [event["received"] for event in events if event["type"] == "job.warning"]
