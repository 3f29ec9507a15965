"""The NATS adapter: requests to the control plane, and wakes from it.

Only core NATS: the answer, sent after SQL has committed, is the acknowledgement. A refused permission looks like a
timeout to who asked; the server's words reach only `error_cb`, and so the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import nats
import nats.errors
import structlog
from google.protobuf.message import DecodeError

from agent import __version__, convert, ports, processes, rendezvous
from trainplane.wire import closing, subjects
from trainplane.wire.settling import settled
from trainplane.wire.v1 import claim_pb2, commit_pb2, log_pb2, probe_pb2, report_pb2, sync_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from nats.aio.client import Client

    from agent.run import AttemptKey

_log = structlog.get_logger()
_LOG_OUTCOMES = log_pb2.LogReply.Outcome


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where and as whom. Without credentials only a server that asks for none lets the agent in."""

    url: str
    node: str
    credentials: Path | None = None
    answer_timeout: timedelta = timedelta(seconds=5)
    public_key: bytes = b""
    """Told with every sync: what the control plane asks of the node is sealed to it."""
    rendezvous_address: str = ""
    """Where ranks of other nodes reach this one; empty: the address by which it reaches the server, if others can."""


class Link:
    """See ports.ControlPlane. `connect` first; `close` ends it within a second.

    Args:
        settings: where and as whom.
        woken: called on a wake, and whenever the connection is there again.
        asked: called with a sealed question about a job's model, and with whom to tell the answer; must not block.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        woken: Callable[[], None],
        asked: Callable[[bytes, Callable[[ports.ProbeAnswer], Awaitable[None]]], None],
    ) -> None:
        self._settings = settings
        self._timeout_seconds = settings.answer_timeout.total_seconds()
        self._woken = woken
        self._asked = asked
        self._nats: Client | None = None
        self._address = settings.rendezvous_address
        self._incarnation = 0
        self._counter = 0
        self._down = False

    async def connect(self) -> None:
        """Connect, for as long as it takes, and listen for wakes. A lost connection is made again, without end."""
        options: dict[str, Any] = {}
        if self._settings.credentials is not None:
            options["user_credentials"] = str(self._settings.credentials)
        self._nats = await nats.connect(
            self._settings.url,
            name=f"trainplane-agent {self._settings.node}",
            inbox_prefix=subjects.inbox_prefix(self._settings.node).encode(),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.5,
            connect_timeout=5,
            ping_interval=10,
            max_outstanding_pings=2,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            **options,
        )
        await self._nats.subscribe(subjects.wake(self._settings.node), cb=self._on_wake)
        await self._nats.subscribe(subjects.probe(self._settings.node), cb=self._on_probe)
        await settled(self._nats)
        server = self._nats.connected_url
        if not self._address and server is not None and server.hostname:
            self._address = await asyncio.to_thread(rendezvous.own_address, server.hostname, server.port or 4222)

    async def close(self) -> None:
        """Close the connection; requests in flight get no answer."""
        if self._nats is not None:
            await closing.close(self._nats)

    async def sync(self, state: ports.NodeState) -> ports.SyncAnswer:
        """See ports.ControlPlane."""
        self._counter += 1
        request = sync_pb2.SyncRequest(
            incarnation=self._incarnation,
            counter=self._counter,
            host_boot_id=processes.boot_id(),
            agent_version=__version__,
            inventory=convert.inventory(
                state.inventory, not_ready_reason=state.not_ready_reason, rendezvous_address=self._address
            ),
            attempts=convert.attempts(state.attempts),
            public_key=self._settings.public_key,
        )
        reply = await self._ask(subjects.SYNC, request, sync_pb2.SyncReply)
        answer = convert.sync_answer(reply)
        if answer.wanted is not None:
            self._incarnation = answer.incarnation
        return answer

    async def claim(
        self, key: AttemptKey, nonce: bytes, public_key: bytes, rendezvous_port: int = 0
    ) -> ports.ClaimAnswer:
        """See ports.ControlPlane."""
        request = claim_pb2.ClaimRequest(
            incarnation=self._incarnation,
            attempt=convert.reference(key),
            nonce=nonce,
            public_key=public_key,
            rendezvous_port=rendezvous_port,
        )
        return convert.claim_answer(await self._ask(subjects.CLAIM, request, claim_pb2.ClaimReply))

    async def report(self, batch: Sequence[ports.Lines]) -> Mapping[AttemptKey, ports.Watermark] | None:
        """See ports.ControlPlane."""
        request = report_pb2.ReportRequest(
            incarnation=self._incarnation,
            attempts=[
                report_pb2.AttemptReports(
                    attempt=convert.reference(part.key),
                    first_sequence=part.first_sequence,
                    reports=[convert.report(line) for line in part.lines],
                )
                for part in batch
            ],
        )
        reply = await self._ask(subjects.REPORT, request, report_pb2.ReportReply)
        return convert.watermarks(reply)

    async def commit(self, key: AttemptKey, digest: str) -> ports.CommitAnswer:
        """See ports.ControlPlane."""
        request = commit_pb2.CommitRequest(
            incarnation=self._incarnation, attempt=convert.reference(key), manifest_digest=digest
        )
        return convert.commit_answer(await self._ask(subjects.COMMIT, request, commit_pb2.CommitReply))

    async def send_log(self, key: AttemptKey, rank: int, offset_bytes: int, data: bytes) -> ports.LogAnswer:
        """See ports.ControlPlane."""
        request = log_pb2.LogRequest(
            incarnation=self._incarnation,
            attempt=convert.reference(key),
            rank=rank,
            offset_bytes=offset_bytes,
            data=data,
        )
        reply = await self._ask(subjects.LOG, request, log_pb2.LogReply)
        if reply.outcome == _LOG_OUTCOMES.STORED:
            return ports.LogAnswer(reply.size_bytes)
        return ports.LogAnswer(None, enough=reply.outcome == _LOG_OUTCOMES.ENOUGH)

    async def _ask(self, kind: str, request: Any, answer: type[Any]) -> Any:
        if self._nats is None or not self._nats.is_connected:
            raise ports.NoAnswerError("not connected")
        try:
            message = await self._nats.request(
                subjects.request(kind, self._settings.node), request.SerializeToString(), timeout=self._timeout_seconds
            )
            return answer.FromString(message.data)
        except (nats.errors.Error, TimeoutError, DecodeError) as error:
            raise ports.NoAnswerError(f"{kind}: {type(error).__name__}") from error

    async def _on_wake(self, _message: Any) -> None:
        self._woken()

    async def _on_probe(self, message: Any) -> None:
        reply = message.reply
        if not reply.startswith(subjects.answers(self._settings.node).removesuffix("*")):
            return

        async def answer(found: ports.ProbeAnswer) -> None:
            told = convert.probe_reply(found)
            if self._nats is not None and self._nats.is_connected:
                with contextlib.suppress(nats.errors.Error):
                    await self._nats.publish(reply, told.SerializeToString())

        with contextlib.suppress(DecodeError):
            self._asked(probe_pb2.ProbeRequest.FromString(message.data).sealed, answer)

    async def _on_error(self, error: Exception) -> None:
        # While there is no connection, each try of a new one reports the same.
        if not self._down or "permission" in str(error).lower() or "auth" in str(error).lower():
            _log.warning("nats error", error=str(error) or type(error).__name__)

    async def _on_disconnected(self) -> None:
        if not self._down and self._nats is not None and not self._nats.is_closed:
            _log.warning("nats disconnected")
        self._down = True

    async def _on_reconnected(self) -> None:
        self._down = False
        _log.info("nats connected again")
        self._woken()
