"""A NATS subscriber of one job's events, as anybody on this machine may write it: no credentials.

An ordered consumer on the events stream: it replays from the first event, so it may come late, and it finds its
place again by itself after a lost connection.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

import nats
from nats.js.api import DeliverPolicy

from trainplane.wire import streams, subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg

log = logging.getLogger(__name__)

#: Two missed ones make the consumer start again where it was.
HEARTBEAT_SECONDS = 1.0
#: Types of the events after which a job has no more.
TERMINAL = frozenset({"job.succeeded", "job.failed", "job.cancelled"})


async def follow(nats_url: str, job_id: str, *, project: str = "default") -> AsyncIterator[dict[str, Any]]:
    """Yield the job's CloudEvents in order from the first, each once, and end after the terminal one.

    Waits for as long as it takes, for the broker too; cancel it, or close the iterator, to stop early.

    Raises:
        nats.js.errors.NotFoundError: the events stream does not exist (yet).
    """
    # For ever, as nats-py otherwise stops for good after 60 tries.
    connection = await nats.connect(nats_url, max_reconnect_attempts=-1, connect_timeout=5, error_cb=_note)
    try:
        subscription = await connection.jetstream().subscribe(
            subjects.events(project=project, job_id=job_id),
            stream=streams.EVENTS.name,
            ordered_consumer=True,
            deliver_policy=DeliverPolicy.ALL,
            idle_heartbeat=HEARTBEAT_SECONDS,
        )
        last = 0
        async for message in subscription.messages:
            event = _event(message)
            sequence = event["data"]["sequence"]
            if sequence <= last:
                continue  # the relay republished it after an unknown outcome
            last = sequence
            yield event
            if event["type"] in TERMINAL:
                return
    finally:
        with contextlib.suppress(nats.errors.Error):
            await connection.close()


async def _note(error: Exception) -> None:
    """The client heals by itself, and by default logs a traceback for each try."""
    log.debug("nats: %r", error)


def _event(message: Msg) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(message.data)
    return event
