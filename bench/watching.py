"""A process of watchers: follows jobs by WatchJob and notes when each event came.

    ◄── {"address": …}  a Watch         ──► watching
    ◄── {"events": …}   an End          ──► path of a file with what came: `Seen` as JSON lines, one a stream

Events are kept as bytes while they come and are parsed when all have: the watchers must not be what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.calls import Streams, connected
from trainplane.v1 import job_event_pb2, job_service_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

_METHOD = "/trainplane.v1.JobService/WatchJob"
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Watch:
    """Whom to watch, and over how many connections."""

    address: str
    job_ids: list[str]
    """One stream each; a name may stand there many times."""
    channels: int
    path: str
    """Where to write what came."""


@dataclass(frozen=True, slots=True)
class End:
    """Stop once each stream has had so many events (by job_id), or when the time is over."""

    events: dict[str, int]
    deadline_seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One event as a watcher got it."""

    sequence: int
    type: str
    message: str
    recorded: float
    """When the control plane recorded it: Unix seconds."""
    received: float


async def _watch(of: Watch) -> None:
    connections = [await connected(of.address, _METHOD, Streams) for _ in range(of.channels)]
    kept: list[list[tuple[bytes, float]]] = [[] for _ in of.job_ids]
    for n, job_id in enumerate(of.job_ids):
        request = job_service_pb2.WatchJobRequest(job_id=job_id).SerializeToString()
        connections[n % of.channels].open(request, _keeper(kept[n]))
    while not all(kept):  # noqa: ASYNC110 - the streams do not wait for it
        await asyncio.sleep(_LOOK_SECONDS)
    print("watching", flush=True)
    end = End(**json.loads(await asyncio.to_thread(sys.stdin.readline)))
    until = time.monotonic() + end.deadline_seconds
    while time.monotonic() < until and not _complete(of, kept, end):  # noqa: ASYNC110 - likewise
        await asyncio.sleep(_LOOK_SECONDS)
    for connection in connections:
        connection.close()
    _write(of, kept)
    print(of.path, flush=True)


def _complete(of: Watch, kept: list[list[tuple[bytes, float]]], end: End) -> bool:
    # A keep-alive has no content.
    counts = [sum(bool(content) for content, _ in received) for received in kept]
    return all(count >= end.events[job_id] for job_id, count in zip(of.job_ids, counts, strict=True))


def _write(of: Watch, kept: list[list[tuple[bytes, float]]]) -> None:
    with Path(of.path).open("w") as file:
        for job_id, received in zip(of.job_ids, kept, strict=True):
            seen = [asdict(_seen(content, at)) for content, at in received if content]
            file.write(json.dumps({"job_id": job_id, "seen": seen}) + "\n")


def _keeper(kept: list[tuple[bytes, float]]) -> Callable[[bytes], None]:
    now = time.time
    return lambda content: kept.append((content, now()))


def read(path: str) -> list[dict[str, Any]]:
    """What a process wrote: `{"job_id": …, "seen": [Seen, …]}` for each stream."""
    return [json.loads(row) for row in Path(path).read_text().splitlines()]


def _seen(content: bytes, received: float) -> Seen:
    event = job_event_pb2.JobEvent.FromString(content)
    return Seen(event.sequence, event.type, event.message, event.time.seconds + event.time.nanos / 1e9, received)


if __name__ == "__main__":
    asyncio.run(_watch(Watch(**json.loads(sys.stdin.readline()))))
