"""A process of clients that submit, each over a connection of its own: told what to do by lines on its stdin.

    ◄── {"address": …}  a Round         ──► connected
    ◄── {"start": …, "end": …}          ──► {"acknowledged": …}  an Outcome

Bodies are the seed's request under distinct job_ids and output prefixes, and what comes back is not parsed: the clients
must not be what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from google.api.httpbody_pb2 import HttpBody

from bench import calls
from tests.support.stack import SEED

if TYPE_CHECKING:
    from collections.abc import Iterator

_ID = b"unique-train-id"
_OUTPUT = b"models/job-id/"


@dataclass(frozen=True, slots=True)
class Round:
    """Where to submit, and what."""

    address: str
    method: str
    prefix: str
    """Of the job_ids; a number follows."""
    clients: int
    at_most: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """From one wall time to another."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a round."""

    acknowledged: list[int]
    """Numbers of the job_ids that were answered with OK."""
    in_time: int
    """How many of them before the round's end."""
    failures: list[str]
    """The first error of each client, which ends it."""


async def _submit(of: Round) -> Outcome:
    connections = [await calls.connected(of.address, of.method, calls.Connection) for _ in range(of.clients)]
    try:
        print("connected", flush=True)
        span = Span(**json.loads(sys.stdin.readline()))
        acknowledged: list[tuple[int, float]] = []
        numbers = iter(range(of.at_most))
        await asyncio.sleep(span.start - time.time())
        running = (_client(of, connection, numbers, acknowledged, span.end) for connection in connections)
        failures = await asyncio.gather(*running)
        return Outcome(
            [number for number, _ in acknowledged],
            sum(at <= span.end for _, at in acknowledged),
            [failure for failure in failures if failure],
        )
    finally:
        for connection in connections:
            connection.close()


async def _client(
    of: Round,
    connection: calls.Connection,
    numbers: Iterator[int],
    acknowledged: list[tuple[int, float]],
    end: float,
) -> str:
    while time.time() < end:
        number = next(numbers, None)
        if number is None:
            break
        name = job_id(of.prefix, number).encode()
        # Live jobs may not publish to one place.
        data = SEED.replace(_ID, name).replace(_OUTPUT, b"models/%s/" % name)
        body = HttpBody(content_type="application/json", data=data)
        try:
            await connection.call(body.SerializeToString())
        except calls.Refused as error:
            return str(error)
        acknowledged.append((number, time.time()))
    return ""


def job_id(prefix: str, number: int) -> str:
    """The name of a submitted job."""
    return f"{prefix}-{number}"


def _main() -> None:
    while line := sys.stdin.readline():
        outcome = asyncio.run(_submit(Round(**json.loads(line))))
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    _main()
