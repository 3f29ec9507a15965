"""The engine's `ProbeBus` over NATS: one question, one answer on a subject that only that node may speak on."""

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

_OUTCOMES = {number: name for name, number in probe_pb2.ProbeReply.Outcome.items() if number}


class NatsProbes:
    """See `controlplane.engine.ports.ProbeBus`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def probe(self, node: str, sealed: bytes, *, seconds: float) -> Probed | None:
        """Asks a node, and waits at most so long; None: no answer."""
        client = self._connection.client
        if not client.is_connected:
            return None
        reply = subjects.answer(node, uuid.uuid4().hex)
        answered: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        async def hear(message: Msg) -> None:
            if not answered.done():
                answered.set_result(message)

        try:
            heard = await client.subscribe(reply, cb=hear, max_msgs=1)
            try:
                request = probe_pb2.ProbeRequest(sealed=sealed).SerializeToString()
                await client.publish(subjects.probe(node), request, reply=reply)
                async with self._connection.answer_within(seconds):
                    return _found((await answered).data)
            finally:
                await heard.unsubscribe()
        except (TimeoutError, nats.errors.Error, OSError):
            return None


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
