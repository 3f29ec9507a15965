"""The engine's `ProbeBus` over NATS: one question, one answer on a subject that only that node may speak on.

The server says at once that nobody hears a question. That may be a node whose agent starts or connects again just
then, so it is asked again for a while; an answer that is lost on its way costs the asker's whole time, and no more.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import nats.errors
from google.protobuf.message import DecodeError

from controlplane.bus import bounds
from controlplane.engine.probing import Finding, Probed
from trainplane.wire import subjects
from trainplane.wire.v1 import probe_pb2

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from controlplane.bus.connection import Connection

#: How long a node is asked again that nobody speaks for: an agent connects again every half a second.
ABSENT_SECONDS = 3.0
_AGAIN_SECONDS = 0.25
_NOBODY = "503"
_OUTCOMES = {number: name for name, number in probe_pb2.ProbeReply.Outcome.items() if number}


class NatsProbes:
    """See `controlplane.engine.ports.ProbeBus`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def probe(self, node: str, sealed: bytes, *, seconds: float) -> Probed | None:
        """Asks a node, and waits at most so long; None: no answer."""
        if not self._connection.client.is_connected:
            return None
        clock = asyncio.get_running_loop().time
        patient_until = clock() + ABSENT_SECONDS
        try:
            async with self._connection.answer_within(seconds):
                message = await self._asked(node, sealed)
                while _is_nobodys(message) and clock() < patient_until:
                    await asyncio.sleep(_AGAIN_SECONDS)
                    message = await self._asked(node, sealed)
            return _found(message.data)
        except (TimeoutError, nats.errors.Error, OSError):
            return None

    async def _asked(self, node: str, sealed: bytes) -> Msg:
        """What came in answer to one question; where nobody heard it, the server's word for that."""
        client = self._connection.client
        reply = subjects.answer(node, uuid.uuid4().hex)
        answered: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        async def hear(message: Msg) -> None:
            if not answered.done():
                answered.set_result(message)

        heard = await client.subscribe(reply, cb=hear, max_msgs=1)
        try:
            request = probe_pb2.ProbeRequest(sealed=sealed).SerializeToString()
            await client.publish(subjects.probe(node), request, reply=reply)
            return await answered
        finally:
            await heard.unsubscribe()


def _is_nobodys(message: Msg) -> bool:
    return (message.headers or {}).get("Status") == _NOBODY


def _found(payload: bytes) -> Probed | None:
    if len(payload) > bounds.MAX_REQUEST_BYTES:
        return None
    try:
        reply = probe_pb2.ProbeReply.FromString(payload)
    except DecodeError:
        return None
    outcome = _OUTCOMES.get(reply.outcome)
    if outcome is None:
        return None
    findings = tuple(
        Finding(
            bounds.message(each.check), _OUTCOMES[each.outcome], bounds.word(each.reason), bounds.message(each.message)
        )
        for each in reply.findings
        if each.outcome in _OUTCOMES
    )
    return Probed(outcome, bounds.word(reply.reason), bounds.message(reply.message), findings, reply.facts)
