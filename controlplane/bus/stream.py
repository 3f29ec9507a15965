"""The events stream: made as `trainplane.wire.streams` says, and filled in order.

JetStream takes a batch whole or not at all and flushes it once, which is seven times the rate of single messages, but
costs it several milliseconds however small it is: a few events go one by one, each answered before the next. So do
those of a batch that was refused (one event in it is there already) or not answered (it may be there): what JetStream
has, it drops by the event's `Nats-Msg-Id`.
See https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import nats.errors
import nats.js.errors
import structlog
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from controlplane.engine.ports import BusUnavailable, StreamState
from trainplane.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.client import Client
    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo

    from controlplane.bus.connection import Connection
    from controlplane.domain.event import StoredEvent
    from trainplane.wire.streams import Stream

_log = structlog.get_logger()

#: The server takes no more in one.
BATCH_EVENTS = 1_000
#: So that a batch fits what the connection keeps in memory.
BATCH_BYTES = 2 * 1024 * 1024
#: Up to so many are sooner there one by one.
FEW_EVENTS = 8
ANSWER_SECONDS = 5.0

_CONTENT_TYPE = ("content-type", "application/cloudevents+json")


class _Refused(Exception):  # noqa: N818 - it says what happened
    """JetStream answered with an error."""


class EventStream:
    """Writes to one stream."""

    def __init__(self, connection: Connection, stream: Stream, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.singly = 0
        """How many events went one by one."""
        self._connection = connection
        self._stream = stream
        self._answer_seconds = answer_seconds

    async def ensure(self) -> StreamState:
        """Makes the stream where it is missing, or brings its settings up to date.

        Raises:
            BusUnavailable: no connection, or JetStream does not answer or refuses.
        """
        client = self._connection.require()
        try:
            async with self._connection.answer_within(self._answer_seconds):
                info, made = await self._made(client.jetstream(timeout=2 * self._answer_seconds))
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(f"the events stream: {error!r}") from error
        return StreamState(identity=_identity(info), made=made)

    async def _made(self, jetstream: JetStreamContext) -> tuple[StreamInfo, bool]:
        """The stream as it is now, and whether it was missing."""
        config = _config(self._stream)
        try:
            info = await jetstream.stream_info(self._stream.name)
        except nats.js.errors.NotFoundError:
            info = await jetstream.add_stream(config)
            _log.info("events_stream_made", stream=self._stream.name)
            return info, True
        if _differs(info.config, config):
            info = await jetstream.update_stream(config)
            _log.info("events_stream_updated", stream=self._stream.name)
        return info, False

    async def publish(self, events: Sequence[StoredEvent]) -> None:
        """Publishes in order; returns when JetStream has flushed all of them to disk.

        Raises:
            BusUnavailable: it may have some of them, never one without those before it in its batch.
        """
        start = 0
        while start < len(events):
            end = _batch_end(events, start)
            client = self._connection.require()
            try:
                await self._publish_some(client, events[start:end])
            except (nats.errors.Error, OSError, _Refused) as error:
                raise BusUnavailable(f"publishing events: {error!r}") from error
            start = end

    async def _publish_some(self, client: Client, events: Sequence[StoredEvent]) -> None:
        if len(events) > FEW_EVENTS:
            try:
                await self._publish_batch(client, events)
            except nats.errors.NoRespondersError:
                raise  # there is no stream: one by one would say the same
            except (_Refused, TimeoutError) as error:
                self._connection.require()
                _log.info("events_singly", events=len(events), why=str(error))
            else:
                return
        for event in events:
            await self._ask(client, event, dict((_CONTENT_TYPE, _message_id(event))))
            self.singly += 1

    async def _publish_batch(self, client: Client, events: Sequence[StoredEvent]) -> None:
        batch = uuid.uuid4().hex
        last = len(events)
        for number, event in enumerate(events, start=1):
            headers = dict(
                (
                    _CONTENT_TYPE,
                    _message_id(event),
                    ("Nats-Batch-Id", batch),
                    ("Nats-Batch-Sequence", str(number)),
                )
            )
            if number < last:
                await client.publish(_subject(event), event.json.encode(), headers=headers)
            else:
                headers["Nats-Batch-Commit"] = "1"
                answer = await self._ask(client, event, headers)
        if answer.get("count") != last:
            raise _Refused(f"{answer.get('count')} of {last} events were taken as a batch")

    async def _ask(self, client: Client, event: StoredEvent, headers: dict[str, str]) -> dict[str, Any]:
        async with self._connection.answer_within(self._answer_seconds):
            message = await client.request(
                _subject(event), event.json.encode(), timeout=2 * self._answer_seconds, headers=headers
            )
        answer: dict[str, Any] = json.loads(message.data)
        if "error" in answer:
            raise _Refused(str(answer["error"].get("description", answer["error"])))
        return answer


def _subject(event: StoredEvent) -> str:
    return subjects.event(project=event.project, job_id=event.job_id, event_type=event.type)


def _message_id(event: StoredEvent) -> tuple[str, str]:
    return ("Nats-Msg-Id", f"{event.uid}.{event.sequence}")


def _batch_end(events: Sequence[StoredEvent], start: int) -> int:
    """Where the batch that begins at `start` ends; at least one event is in it."""
    size = 0
    for end in range(start, min(start + BATCH_EVENTS, len(events))):
        size += len(events[end].json)
        if size > BATCH_BYTES and end > start:
            return end
    return min(start + BATCH_EVENTS, len(events))


def _config(of: Stream) -> StreamConfig:
    return StreamConfig(
        name=of.name,
        subjects=list(of.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=of.max_age.total_seconds(),
        max_bytes=of.max_bytes,
        duplicate_window=of.duplicate_window.total_seconds(),
        num_replicas=of.replicas,
        allow_atomic=True,
        deny_delete=True,
    )


def _differs(have: StreamConfig, want: StreamConfig) -> bool:
    """Whether any setting that we make is another one; the server fills in many that we leave to it."""
    return any(
        getattr(have, name) != getattr(want, name)
        for name in ("subjects", "max_age", "max_bytes", "duplicate_window", "num_replicas", "allow_atomic")
    )


def _identity(info: StreamInfo) -> str:
    """When the stream was made: a stream that was lost and made again has another one."""
    if info.created is None:
        raise BusUnavailable("JetStream does not say when the events stream was made")
    return info.created.isoformat()
