"""Answers agents' requests: one subscription per kind, so that logs never hold up a sync.

    message ─► is the subject ours, and the reply the node's own? ─► room? ─► decode ─► handler ─► encode ─► reply

Nothing that a node sends ends this loop. The node is who the subject says, which the NATS server enforces. The reply
goes only below the node's own reply prefix: whoever asks chooses the reply subject, and we may publish where they may
not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats.errors
import structlog

from controlplane.bus import convert, reports
from controlplane.bus.bounds import Malformed
from controlplane.domain.node import Wanted
from controlplane.engine import requests
from controlplane.engine.ports import BusUnavailable, OutcomeUnknown, StoreUnavailable
from trainplane.wire import subjects
from trainplane.wire.settling import settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from controlplane.bus.connection import Connection
    from controlplane.engine.requests import NodeHandlers

_log = structlog.get_logger()

#: Messages and bytes of one kind that wait to be looked at; above, the library drops them, and their senders ask again.
WAITING_MESSAGES = 4_096
WAITING_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is done at once."""

    requests_per_kind: int = 64
    requests_per_node: int = 4
    """Of one kind. An agent has one in flight; more are repeats after a time-out, or another agent of the same name."""
    answer_seconds: float = 30.0
    """Then it is given up and its place is free again; agents wait less."""


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One kind of request: from bytes, to bytes, and what is said when nothing can be said."""

    decode: Callable[[str, bytes], Any]
    encode: Callable[[Any], bytes]
    not_now: bytes


_EXCHANGES = {
    subjects.SYNC: _Exchange(convert.sync, convert.wanted, convert.wanted(Wanted("NOT_NOW"))),
    subjects.CLAIM: _Exchange(
        convert.claim, convert.claim_answer, convert.claim_answer(requests.ClaimAnswer(requests.Grant.NOT_NOW))
    ),
    subjects.REPORT: _Exchange(
        reports.batch, reports.answer, reports.answer(requests.ReportAnswer(requests.Intake.NOT_NOW))
    ),
    subjects.COMMIT: _Exchange(
        convert.commit, convert.commit_answer, convert.commit_answer(requests.CommitAnswer(requests.Grant.NOT_NOW))
    ),
    subjects.LOG: _Exchange(
        convert.log, convert.log_answer, convert.log_answer(requests.LogAnswer(requests.Kept.NOT_NOW))
    ),
}


class NodeServer:
    """Serves every agent; `counts` says what became of the requests, by kind and outcome."""

    def __init__(self, connection: Connection, *, bounds: Bounds | None = None) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.ready = asyncio.Event()
        """Set when the server (or its successor) is asked to send us requests."""
        self._connection = connection
        self._bounds = bounds or Bounds()
        self._busy: Counter[tuple[str, str]] = Counter()

    async def serve(self, handlers: NodeHandlers) -> None:
        """Answers until cancelled; requests in flight are then cut off, unanswered, and their agents repeat them.

        Raises:
            BusUnavailable: the connection is over for good.
        """
        client = self._connection.client
        heard: list[Subscription] = []
        try:
            async with asyncio.TaskGroup() as answering:
                for kind, handler in _handlers(handlers).items():
                    heard.append(
                        await client.subscribe(
                            subjects.requests(kind),
                            cb=self._taker(kind, handler, answering),
                            pending_msgs_limit=WAITING_MESSAGES,
                            pending_bytes_limit=WAITING_BYTES,
                        )
                    )
                await settled(client)
                self.ready.set()
                await self._connection.closed.wait()
        finally:
            self.ready.clear()
            for subscription in heard:
                with suppress(nats.errors.Error):
                    await subscription.unsubscribe()
        raise BusUnavailable("the connection to NATS is over for good")

    def _taker(
        self, kind: str, handler: Callable[[Any], Awaitable[Any]], answering: asyncio.TaskGroup
    ) -> Callable[[Msg], Awaitable[None]]:
        places = asyncio.Semaphore(self._bounds.requests_per_kind)

        async def answer(message: Msg, node: str) -> None:
            try:
                reply = await self._answer(kind, node, handler, message.data)
                await self._send(message.reply, reply)
            finally:
                places.release()
                self._busy[kind, node] -= 1
                if not self._busy[kind, node]:
                    del self._busy[kind, node]

        async def take(message: Msg) -> None:
            node = _asker(kind, message)
            if node is None:
                self._count(kind, "foreign", subject=message.subject)
            elif self._busy[kind, node] >= self._bounds.requests_per_node:
                self._count(kind, "crowded", node=node)
                await self._send(message.reply, _EXCHANGES[kind].not_now)
            else:
                self._busy[kind, node] += 1
                await places.acquire()
                answering.create_task(answer(message, node), name=f"{kind} {node}")

        return take

    async def _send(self, reply: str, payload: bytes) -> None:
        with suppress(nats.errors.Error, OSError):  # the connection is gone meanwhile: the agent asks again
            await self._connection.client.publish(reply, payload)

    async def _answer(self, kind: str, node: str, handler: Callable[[Any], Awaitable[Any]], payload: bytes) -> bytes:
        exchange = _EXCHANGES[kind]
        try:
            asked = exchange.decode(node, payload)
            if kind == subjects.REPORT and (lost := reports.unusable(asked)):
                self._count(kind, "unreadable", node=node, reports=lost)
            async with asyncio.timeout(self._bounds.answer_seconds):
                answer = await handler(asked)
            self.counts[kind, "answered"] += 1
            return exchange.encode(answer)
        except Malformed as error:
            self._count(kind, "malformed", node=node, why=str(error))
        except (StoreUnavailable, OutcomeUnknown) as error:
            self._count(kind, "unavailable", node=node, why=str(error))
        except TimeoutError:
            self._count(kind, "late", node=node)
        except Exception:  # noqa: BLE001 - the guard: one request must not end the service of all
            self.counts[kind, "failed"] += 1
            _log.exception("request_failed", kind=kind, node=node)
        return exchange.not_now

    def _count(self, kind: str, what: str, **known: object) -> None:
        """Counts, and logs the 1st, 2nd, 4th, 8th …: whoever floods us must not fill the log."""
        self.counts[kind, what] += 1
        times = self.counts[kind, what]
        if times & (times - 1) == 0:
            _log.warning("request_not_served", kind=kind, outcome=what, times=times, **known)


def _handlers(of: NodeHandlers) -> dict[str, Callable[[Any], Awaitable[Any]]]:
    return {
        subjects.SYNC: of.sync,
        subjects.CLAIM: of.claim,
        subjects.REPORT: of.report,
        subjects.COMMIT: of.commit,
        subjects.LOG: of.log,
    }


def _asker(kind: str, message: Msg) -> str | None:
    """The node that asks; None: a message that came by another way than a node's own request.

    A JetStream consumer, for one, delivers to any subject that whoever makes it names, under the message's own subject.
    """
    node = subjects.node_of(message.subject)
    try:
        ours = message.subject == subjects.request(kind, node)
        return node if ours and message.reply.startswith(f"{subjects.inbox_prefix(node)}.") else None
    except ValueError:
        return None
