"""Agents' requests over a real server: what a hostile, hasty or unlucky node gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import nats.errors
import pytest
from structlog.testing import capture_logs

from controlplane.bus.connection import NatsAddress, connected
from controlplane.bus.nats import NatsBus
from controlplane.bus.server import Bounds, NodeServer
from controlplane.domain import news
from controlplane.domain.node import AttemptRef, Sync, Wanted
from controlplane.engine.ports import BusUnavailable, OutcomeUnknown, StoreUnavailable
from controlplane.engine.requests import (
    ClaimAnswer,
    CommitAnswer,
    Grant,
    Intake,
    Kept,
    LogAnswer,
    ReportAnswer,
    Watermark,
)
from tests.support.eventually import eventually
from trainplane.wire import permissions, streams, subjects
from trainplane.wire.settling import settled
from trainplane.wire.v1.claim_pb2 import ClaimReply, ClaimRequest
from trainplane.wire.v1.commit_pb2 import CommitReply, CommitRequest
from trainplane.wire.v1.log_pb2 import LogReply, LogRequest
from trainplane.wire.v1.report_pb2 import AttemptReports, Progressed, Report, ReportReply, ReportRequest, Started
from trainplane.wire.v1.sync_pb2 import AttemptRef as WireRef
from trainplane.wire.v1.sync_pb2 import AttemptStatus, Inventory, SyncReply, SyncRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from tests.support.natsd import Connections, Natsd

REF = WireRef(job_uid="01J", number=1)
REQUESTS: dict[str, Any] = {
    "sync": SyncRequest(incarnation=7, counter=1),
    "claim": ClaimRequest(incarnation=7, attempt=REF, nonce=b"n" * 16, public_key=b"k" * 32),
    "report": ReportRequest(incarnation=7, attempts=[AttemptReports(attempt=REF, first_sequence=1)]),
    "commit": CommitRequest(incarnation=7, attempt=REF, manifest_digest="ab" * 32),
    "log": LogRequest(incarnation=7, attempt=REF, data=b"line\n"),
}
REPLIES: dict[str, Any] = {
    "sync": SyncReply,
    "claim": ClaimReply,
    "report": ReportReply,
    "commit": CommitReply,
    "log": LogReply,
}


class Handlers:
    """Notes what was asked, and answers as told: `raises` first, after `gate` opens."""

    def __init__(self) -> None:
        self.asked: dict[str, list[Any]] = defaultdict(list)
        self.raises: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def _note(self, kind: str, asked: Any) -> None:
        self.asked[kind].append(asked)
        if kind in self.gates:
            await self.gates[kind].wait()
        if kind in self.raises:
            raise self.raises[kind]

    async def sync(self, said: Any) -> Wanted:
        await self._note("sync", said)
        return Wanted("APPLIED", incarnation=7, generation=3, next_sync_seconds=2.5)

    async def claim(self, asked: Any) -> ClaimAnswer:
        await self._note("claim", asked)
        return ClaimAnswer(Grant.GRANTED, assignment_json=b"{}", sealed_secrets=b"s", applied=4)

    async def report(self, batch: Any) -> ReportAnswer:
        await self._note("report", batch)
        return ReportAnswer(Intake.APPLIED, tuple(Watermark(each.attempt, 9) for each in batch.attempts))

    async def commit(self, asked: Any) -> CommitAnswer:
        await self._note("commit", asked)
        return CommitAnswer(Grant.REFUSED, "JOB_IS_OVER")

    async def log(self, chunk: Any) -> LogAnswer:
        await self._note("log", chunk)
        return LogAnswer(Kept.STORED, 5)


class Serving:
    def __init__(self, server: NodeServer, handlers: Handlers, connection: Any) -> None:
        self.server = server
        self.handlers = handlers
        self.connection = connection


@asynccontextmanager
async def serve(natsd: Natsd, *, bounds: Bounds | None = None) -> AsyncIterator[Serving]:
    async with connected(NatsAddress(natsd.url, natsd.control_plane())) as connection:
        server, handlers = NodeServer(connection, bounds=bounds), Handlers()
        serving = asyncio.create_task(server.serve(handlers))
        await asyncio.wait_for(server.ready.wait(), timeout=60)
        try:
            yield Serving(server, handlers, connection)
            assert not serving.done(), "no request may end the service"
            assert connection.violations == 0
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


@pytest.fixture
async def serving(natsd: Natsd) -> AsyncIterator[Serving]:
    async with serve(natsd) as one:
        yield one


async def ask(node: Client, kind: str, name: str = "gpu-01", payload: bytes | None = None) -> Any:
    body = REQUESTS[kind].SerializeToString() if payload is None else payload
    answer = await node.request(subjects.request(kind, name), body, timeout=60)
    return REPLIES[kind].FromString(answer.data)


async def test_every_kind_is_answered_and_the_node_is_the_subjects(serving: Serving, connections: Connections) -> None:
    node = await connections.node("gpu-01")
    sync = await ask(node, "sync")
    assert (sync.outcome, sync.generation, sync.next_sync.ToMicroseconds()) == (SyncReply.APPLIED, 3, 2_500_000)
    claim = await ask(node, "claim")
    assert (claim.outcome, claim.assignment_json, claim.sealed_secrets, claim.applied) == (
        ClaimReply.GRANTED,
        b"{}",
        b"s",
        4,
    )
    report = await ask(node, "report")
    assert [(mark.attempt.job_uid, mark.applied) for mark in report.watermarks] == [("01J", 9)]
    commit = await ask(node, "commit")
    assert (commit.outcome, commit.reason) == (CommitReply.REFUSED, "JOB_IS_OVER")
    assert (await ask(node, "log")).size_bytes == 5
    assert [asked.node for kind in subjects.REQUESTS for asked in serving.handlers.asked[kind]] == ["gpu-01"] * 5
    assert serving.handlers.asked["claim"][0].attempt == AttemptRef("01J", 1)


async def test_a_slow_answer_holds_up_neither_other_nodes_nor_other_kinds_and_still_arrives(
    serving: Serving, connections: Connections
) -> None:
    gate = serving.handlers.gates["claim"] = asyncio.Event()
    slow, quick = await connections.node("slow"), await connections.node("quick")
    waiting = asyncio.create_task(ask(slow, "claim", "slow"))
    await eventually(lambda: serving.handlers.asked["claim"])
    assert (await ask(slow, "sync", "slow")).outcome == SyncReply.APPLIED
    assert (await ask(quick, "sync", "quick")).outcome == SyncReply.APPLIED
    assert not waiting.done()
    gate.set()
    assert (await waiting).outcome == ClaimReply.GRANTED


@pytest.mark.parametrize("kind", subjects.REQUESTS)
@pytest.mark.parametrize(
    ("error", "counted"),
    [(StoreUnavailable("gone"), "unavailable"), (OutcomeUnknown("?"), "unavailable"), (KeyError("bug"), "failed")],
    ids=["store", "unknown", "bug"],
)
async def test_whatever_a_handler_raises_the_agent_is_told_not_now(
    serving: Serving, connections: Connections, kind: str, error: Exception, counted: str
) -> None:
    serving.handlers.raises[kind] = error
    node = await connections.node("gpu-01")
    with capture_logs() as logs:
        reply = await ask(node, kind)
    assert REPLIES[kind].Outcome.Name(reply.outcome) == "NOT_NOW"
    assert serving.server.counts[kind, counted] == 1
    assert [(entry["kind"], entry["node"]) for entry in logs] == [(kind, "gpu-01")]
    del serving.handlers.raises[kind]
    assert REPLIES[kind].Outcome.Name((await ask(node, kind)).outcome) != "NOT_NOW"


async def test_an_answer_that_never_comes_is_given_up_and_its_place_is_free_again(
    natsd: Natsd, connections: Connections
) -> None:
    async with serve(natsd, bounds=Bounds(requests_per_kind=1, answer_seconds=0.2)) as serving:
        serving.handlers.gates["report"] = asyncio.Event()
        node = await connections.node("gpu-01")
        assert (await ask(node, "report")).outcome == ReportReply.NOT_NOW
        serving.handlers.gates["report"].set()
        assert (await ask(node, "report")).outcome == ReportReply.APPLIED
        assert serving.server.counts["report", "late"] == 1


async def test_a_node_that_asks_too_much_at_once_is_put_off_and_others_are_served(
    natsd: Natsd, connections: Connections
) -> None:
    async with serve(natsd, bounds=Bounds(requests_per_kind=8, requests_per_node=2)) as serving:
        gate = serving.handlers.gates["sync"] = asyncio.Event()
        flood, other = await connections.node("flood"), await connections.node("other")
        asked = [asyncio.create_task(ask(flood, "sync", "flood")) for _ in range(20)]
        put_off = await eventually(lambda: [task.result() for task in asked if task.done()][17:])
        assert put_off[0].outcome == SyncReply.NOT_NOW
        waiting = asyncio.create_task(ask(other, "sync", "other"))
        await eventually(lambda: len(serving.handlers.asked["sync"]) == 3)
        gate.set()
        assert (await waiting).outcome == SyncReply.APPLIED
        outcomes = [(await task).outcome for task in asked]
        assert (outcomes.count(SyncReply.APPLIED), outcomes.count(SyncReply.NOT_NOW)) == (2, 18)


HOSTILE = {
    "random": b"\xff\xfe\x00garbage" * 10,
    "cut": SyncRequest(host_boot_id="x" * 100).SerializeToString()[:-5],
    "huge": b"\x00" * 1_000_000,
    "not utf-8": b"\x1a\x02\xff\xfe",
    "attempt without a name": SyncRequest(attempts=[AttemptStatus(pid=1)]).SerializeToString(),
    "one GPU twice": SyncRequest(inventory=Inventory(gpus=[Inventory.Gpu(), Inventory.Gpu()])).SerializeToString(),
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_sync_is_told_not_now_and_reaches_nobody(
    serving: Serving, connections: Connections, payload: bytes
) -> None:
    node = await connections.node("gpu-01")
    assert (await ask(node, "sync", payload=payload)).outcome == SyncReply.NOT_NOW
    assert serving.handlers.asked["sync"] == []
    assert serving.server.counts["sync", "malformed"] == 1
    assert (await ask(node, "sync")).outcome == SyncReply.APPLIED


@pytest.mark.parametrize("kind", subjects.REQUESTS)
async def test_empty_and_random_payloads_of_every_kind_leave_the_service_alive(
    serving: Serving, connections: Connections, kind: str
) -> None:
    node = await connections.node("gpu-01")
    for payload in (b"", b"\x00", b"\x08", b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256)), b"\x12" * 1_000):
        await ask(node, kind, payload=payload)
    assert REPLIES[kind].Outcome.Name((await ask(node, kind)).outcome) != "NOT_NOW"


async def test_a_flood_of_nonsense_is_counted_in_full_and_logged_seldom(
    serving: Serving, connections: Connections
) -> None:
    node = await connections.node("gpu-01")
    with capture_logs() as logs:
        for _ in range(100):
            await ask(node, "sync", payload=b"\xff")
    assert serving.server.counts["sync", "malformed"] == 100
    assert [entry["times"] for entry in logs if entry["event"] == "request_not_served"] == [1, 2, 4, 8, 16, 32, 64]


async def test_numbers_that_are_not_finite_make_their_report_unreadable_and_no_other(
    serving: Serving, connections: Connections
) -> None:
    reports = [
        Report(started=Started(pid=1)),
        Report(progressed=Progressed(step=1, loss=float("nan"))),
        Report(progressed=Progressed(step=2, grad_norm=float("inf"))),
        Report(progressed=Progressed(step=3, loss=1.5)),
    ]
    batch = ReportRequest(attempts=[AttemptReports(attempt=REF, first_sequence=4, reports=reports)])
    node = await connections.node("gpu-01")
    assert (await ask(node, "report", payload=batch.SerializeToString())).outcome == ReportReply.APPLIED
    (attempt,) = serving.handlers.asked["report"][0].attempts
    assert [type(report.news) for report in attempt.reports] == [
        news.Started,
        type(None),
        type(None),
        news.Progressed,
    ]
    assert serving.server.counts["report", "unreadable"] == 1


@pytest.mark.parametrize(
    "reply",
    [
        "",
        f"{subjects.inbox_prefix('gpu-02')}.x",
        subjects.inbox_prefix("gpu-01"),
        subjects.wake("gpu-02"),
        subjects.event(project="default", job_id="a", event_type="job.succeeded"),
        f"$JS.API.STREAM.UPDATE.{streams.EVENTS.name}",
    ],
)
async def test_a_reply_goes_nowhere_but_to_the_askers_own_inbox(
    serving: Serving, connections: Connections, natsd: Natsd, reply: str
) -> None:
    everything = await connections.credentials(
        natsd.keys.mint_user("tap", permissions.Permissions((">",), (">",))), no_echo=True
    )
    heard: list[str] = []

    async def note(message: Any) -> None:
        heard.append(message.subject)

    await everything.subscribe(">", cb=note)
    await settled(everything)
    node = await connections.node("gpu-01")
    await node.publish(subjects.request("sync", "gpu-01"), b"", reply=reply)
    await eventually(lambda: serving.server.counts["sync", "foreign"] == 1)
    await ask(node, "sync")
    answer = await eventually(lambda: [one for one in heard if one.startswith("_REPLY")])
    assert len(answer) == 1
    assert [one for one in heard if one == reply] == []
    assert len(serving.handlers.asked["sync"]) == 1


async def test_an_event_that_is_delivered_to_a_request_subject_is_no_request(
    serving: Serving, connections: Connections
) -> None:
    """Whoever pulls an event chooses where JetStream sends it; under the event's own subject, at least."""
    bus = NatsBus(serving.connection)
    await bus.ensure_stream()
    await serving.connection.client.jetstream().publish(
        subjects.event(project="default", job_id="a", event_type="job.queued"), REQUESTS["sync"].SerializeToString()
    )
    reader = await connections.anonymous()
    body = json.dumps({"stream_name": streams.EVENTS.name, "config": {"ack_policy": "explicit"}}).encode()
    made = await reader.request(f"$JS.API.CONSUMER.CREATE.{streams.EVENTS.name}", body, timeout=60)
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{streams.EVENTS.name}.{json.loads(made.data)['name']}"
    await reader.publish(pull, b"1", reply=subjects.request("sync", "gpu-01"))
    await eventually(lambda: serving.server.counts["sync", "foreign"] >= 1)
    assert serving.handlers.asked["sync"] == []


async def test_after_a_restart_of_the_server_requests_are_served_again(
    serving: Serving, connections: Connections, natsd: Natsd
) -> None:
    back: list[bool] = []
    serving.connection.on_reconnect(lambda: back.append(True))
    natsd.restart()
    await eventually(lambda: back)
    node = await connections.node("gpu-01")

    async def answered() -> bool:
        try:
            return (await ask(node, "sync")).outcome == SyncReply.APPLIED
        except nats.errors.NoRespondersError:
            return False

    await eventually(answered)


async def test_when_the_connection_is_over_for_good_the_service_says_so(natsd: Natsd) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=2)
    credentials = natsd.keys.mint_user("control plane", permissions.control_plane(), expires=expires)
    async with connected(NatsAddress(natsd.url, credentials)) as connection:
        with pytest.raises(BusUnavailable, match="over for good"):
            await asyncio.wait_for(NodeServer(connection).serve(Handlers()), timeout=60)


async def test_a_cancelled_service_hears_nothing_more(natsd: Natsd, connections: Connections) -> None:
    async with connected(NatsAddress(natsd.url, natsd.control_plane())) as connection:
        server, handlers = NodeServer(connection), Handlers()
        handlers.gates["sync"] = asyncio.Event()
        serving = asyncio.create_task(server.serve(handlers))
        await asyncio.wait_for(server.ready.wait(), timeout=60)
        node = await connections.node("gpu-01")
        waiting = asyncio.create_task(ask(node, "sync"))
        await eventually(lambda: handlers.asked["sync"])
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.ready.is_set()

        async def unheard() -> bool:
            try:
                await node.request(subjects.request("commit", "gpu-01"), b"", timeout=0.5)
            except nats.errors.NoRespondersError:
                return True
            except nats.errors.TimeoutError:
                return False  # it was on its way when the subscription ended
            raise AssertionError("somebody answered")

        await eventually(unheard)
        waiting.cancel()


@pytest.mark.parametrize("credentials", ["expired", "a stranger's"])
async def test_a_first_connection_that_is_refused_ends_within_its_time(natsd: Natsd, credentials: str) -> None:
    keys = natsd.keys if credentials == "expired" else type(natsd.keys).new()
    past = datetime.now(UTC) - timedelta(seconds=5) if credentials == "expired" else None
    text = keys.mint_user("control plane", permissions.control_plane(), expires=past)
    with pytest.raises(BusUnavailable, match="no connection to NATS at nats://"):
        async with connected(NatsAddress(natsd.url, text, connect_seconds=1.0)):
            pass


def test_credentials_are_not_shown_with_the_address() -> None:
    assert "SECRET" not in repr(NatsAddress("nats://h:1", "SECRET"))


def test_a_sync_keeps_its_node_whatever_the_payload_says() -> None:
    assert "node" not in {field.name for field in SyncRequest.DESCRIPTOR.fields}
    assert Sync.__match_args__[0] == "node"
