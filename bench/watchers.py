"""One event to a thousand watchers: how long until the last of them has it.

A job reports now and then; its watchers are streams of other processes, each with several connections. The time runs
from the event's own, which the control plane writes before it commits.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import grpc
from google.api.httpbody_pb2 import HttpBody

from bench.figures import percentile
from bench.peers import peer
from bench.report import Line
from bench.watching import End, Watch, read
from tests.support.stack import Stack, mock_spec
from trainplane.v1 import job_service_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

NAME = "watchers"
WATCHERS = 1_000
PROCESSES = 1
CHANNELS_EACH = 10
EVENTS = 20
EVENTS_PER_SECOND = 2
LIMIT_SECONDS = 0.2
_JOB_ID = "watched"
_BURST = 7
"""Events of a job that come together at its start, not one by one: queued, starting, started, three phases, and the
first warning."""


def measure(directory: Path) -> list[Line]:
    """Opens the watchers on a waiting job, then lets it run: an agent joins."""
    stack = Stack(directory)
    with ExitStack() as opened:
        opened.callback(stack.stop)
        stack.start(gateway=False)
        _submit(stack.address, directory / "output")
        watchers = [opened.enter_context(peer("bench.watching")) for _ in range(PROCESSES)]
        for number, watcher in enumerate(watchers):
            names = [_JOB_ID] * (WATCHERS // PROCESSES)
            watcher.tell(asdict(Watch(stack.address, names, CHANNELS_EACH, str(directory / f"watcher-{number}.jsonl"))))
        for watcher in watchers:
            assert watcher.line() == "watching"
        stack.join("node-1", "--gpus", "0", "--cpus", "8")
        time.sleep(EVENTS / EVENTS_PER_SECOND + 3)
        paths = []
        for watcher in watchers:
            watcher.tell(asdict(End({_JOB_ID: _BURST + EVENTS}, deadline_seconds=10.0)))
            paths.append(watcher.line())
        return [_line([stream for path in paths for stream in read(path)])]


def _submit(address: str, output: Path) -> None:
    flood = {"reports_per_second": EVENTS_PER_SECOND, "report_seconds": (EVENTS + 1) / EVENTS_PER_SECOND}
    spec = mock_spec(_JOB_ID, output, hang_at_step=1, **flood)
    with grpc.insecure_channel(address) as channel:
        body = HttpBody(content_type="application/json", data=json.dumps(spec).encode())
        job_service_pb2_grpc.JobServiceStub(channel).SubmitTraining(body)


def _line(streams: list[dict]) -> Line:
    assert len(streams) == WATCHERS
    times: dict[int, list[float]] = {}
    for stream in streams:
        sequences = [seen["sequence"] for seen in stream["seen"] if seen["sequence"]]
        assert sequences == list(range(1, len(sequences) + 1)), f"a watcher has a gap: {sequences}"
        for seen in stream["seen"]:
            if seen["sequence"] > _BURST:
                times.setdefault(seen["sequence"], []).append(seen["received"] - seen["recorded"])
    complete = [max(each) for each in times.values() if len(each) == WATCHERS]
    assert len(complete) == EVENTS, f"{len(complete)} of {EVENTS} events reached all {WATCHERS} watchers"
    return Line(
        NAME,
        f"one event to the last of {WATCHERS:,} watchers in another process, {EVENTS} events",
        f"median {percentile(complete, 50) * 1e3:.0f} ms, slowest event {max(complete) * 1e3:.0f} ms",
        f"every event within {LIMIT_SECONDS * 1e3:.0f} ms",
        passed=max(complete) <= LIMIT_SECONDS,
        ratio=max(complete) / LIMIT_SECONDS,
    )
