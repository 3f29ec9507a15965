"""What each kind of user can and cannot do, against the real server."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import nats.errors
import nats.js.errors
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tests.support.eventually import eventually
from tests.support.natsd import Natsd
from trainplane.wire import permissions, streams, subjects
from trainplane.wire.permissions import Permissions
from trainplane.wire.settling import settled

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

    from tests.support.natsd import Connections

EVENT = subjects.event(project="default", job_id="a", event_type="job.queued")
STREAM = streams.EVENTS.name
EVERYTHING = Permissions((">",), (">",))


class Errors:
    """Collects what the server says about a connection."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def __call__(self, error: Exception) -> None:
        self.texts.append(str(error))

    def violations(self) -> list[str]:
        return [text for text in self.texts if "permissions violation" in text]


@pytest.fixture
async def operator(connections: Connections, natsd: Natsd) -> Client:
    """A user that may do everything, with the events stream made and one event in it."""
    client = await connections.credentials(natsd.keys.mint_user("operator", EVERYTHING))
    await client.jetstream().add_stream(name=STREAM, subjects=list(streams.EVENTS.subjects), allow_atomic=True)
    await client.jetstream().publish(EVENT, b"{}")
    return client


def watched(errors: Errors) -> dict[str, Any]:
    async def note(error: Exception) -> None:
        await errors(error)

    return {"error_cb": note}


async def barrier(client: Client, errors: Errors) -> None:
    """Returns when the server has judged everything sent before (`flush` does not promise it: its ping may overtake)."""
    marker = f"marker.{len(errors.texts)}.{id(client)}"
    await client.publish(marker, b"")
    await eventually(lambda: any(marker in text for text in errors.texts))


async def refused(client: Client, errors: Errors, subject: str) -> bool:
    """Whether publishing on a subject is a violation."""
    await client.publish(subject, b"x", reply="_INBOX.x")
    await barrier(client, errors)
    return any(f'publish to "{subject.lower()}"' in text for text in errors.violations())


async def deaf(client: Client, errors: Errors, subject: str) -> bool:
    """Whether subscribing to a subject is a violation."""
    await client.subscribe(subject)
    await barrier(client, errors)
    return any(f'subscription to "{subject.lower()}"' in text for text in errors.violations())


async def test_a_node_may_ask_in_its_own_name_and_is_answered(connections: Connections, operator: Client) -> None:
    async def answer(message: Any) -> None:
        await message.respond(b"yes")

    for kind in subjects.REQUESTS:
        await operator.subscribe(subjects.requests(kind), cb=answer)
    await settled(operator)
    node = await connections.node("gpu-01")
    for kind in subjects.REQUESTS:
        assert (await node.request(subjects.request(kind, "gpu-01"), b"", timeout=60)).data == b"yes"


@pytest.mark.parametrize(
    "subject",
    [
        *(subjects.request(kind, "gpu-02") for kind in subjects.REQUESTS),
        subjects.wake("gpu-02"),
        subjects.wake("gpu-01"),
        subjects.probe("gpu-01"),
        subjects.probe("gpu-02"),
        subjects.answer("gpu-02", "x"),
        f"{subjects.inbox_prefix('gpu-02')}.x",
        f"{subjects.CONTROLPLANE_INBOX}.x",
        EVENT,
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        f"$JS.API.STREAM.INFO.{STREAM}",
        f"$JS.API.STREAM.DELETE.{STREAM}",
        f"$JS.API.CONSUMER.CREATE.{STREAM}",
        "$SYS.REQ.SERVER.PING",
        "trainplane.v1.sync.gpu-01.more",
        "anything",
    ],
)
async def test_a_node_cannot_publish_on_anything_else(connections: Connections, subject: str) -> None:
    errors = Errors()
    node = await connections.node("gpu-01", **watched(errors))
    assert await refused(node, errors, subject)
    assert not await refused(node, errors, subjects.request("sync", "gpu-01"))


@pytest.mark.parametrize(
    "subject",
    [
        subjects.wake("gpu-02"),
        subjects.wakes(),
        subjects.probe("gpu-02"),
        subjects.probes(),
        subjects.answers("gpu-01"),
        subjects.answers(),
        subjects.requests("sync"),
        subjects.request("claim", "gpu-02"),
        subjects.request("claim", "gpu-01"),
        subjects.events(),
        f"{subjects.inbox_prefix('gpu-02')}.>",
        subjects.inboxes(),
        "_INBOX.>",
        f"{subjects.CONTROLPLANE_INBOX}.>",
        ">",
        "$JS.EVENT.>",
        "$SYS.>",
    ],
)
async def test_a_node_cannot_hear_anything_but_its_wakes_and_replies(connections: Connections, subject: str) -> None:
    errors = Errors()
    node = await connections.node("gpu-01", **watched(errors))
    assert await deaf(node, errors, subject)
    assert not await deaf(node, errors, subjects.wake("gpu-01"))
    assert not await deaf(node, errors, subjects.probe("gpu-01"))
    assert not await deaf(node, errors, f"{subjects.inbox_prefix('gpu-01')}.>")


async def test_the_control_plane_cannot_speak_as_a_node_or_delete_the_stream(
    connections: Connections, natsd: Natsd
) -> None:
    errors = Errors()
    client = await connections.credentials(natsd.control_plane(), **watched(errors))
    for subject in (
        subjects.request("sync", "gpu-01"),
        subjects.answer("gpu-01", "x"),
        f"$JS.API.STREAM.DELETE.{STREAM}",
        "$JS.API.STREAM.LIST",
    ):
        assert await refused(client, errors, subject), subject
    for subject in (subjects.wake("gpu-01"), subjects.probe("gpu-01"), EVENT, f"{subjects.inbox_prefix('gpu-01')}.x"):
        assert not await refused(client, errors, subject), subject


async def test_anonymous_reads_events_as_they_happen_and_from_the_stream(
    connections: Connections, operator: Client
) -> None:
    errors = Errors()
    reader = await connections.anonymous(**watched(errors))
    live = await reader.subscribe(subjects.events())
    stored = await reader.jetstream().subscribe(subjects.events(), stream=STREAM, ordered_consumer=True)
    await settled(reader)
    assert (await stored.next_msg(timeout=60)).data == b"{}"
    looked_up = await reader.jetstream().subscribe(subjects.events(), ordered_consumer=True)  # by subject alone
    assert (await looked_up.next_msg(timeout=60)).data == b"{}"
    await operator.jetstream().publish(EVENT, b"{2}")
    assert (await live.next_msg(timeout=60)).data == b"{2}"
    assert (await stored.next_msg(timeout=60)).data == b"{2}"
    pulled = await reader.jetstream().pull_subscribe(
        subjects.events(),
        stream=STREAM,
        config=ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL),
    )
    assert [message.data for message in await pulled.fetch(2, timeout=60)] == [b"{}", b"{2}"]
    assert (await pulled.consumer_info()).delivered.stream_seq == 2
    assert errors.violations() == []


async def test_anonymous_reads_a_long_stream_through_flow_control(connections: Connections, operator: Client) -> None:
    for number in range(600):
        await operator.publish(EVENT, b"%d" % number + b" " * 10_000)
    await operator.jetstream().publish(EVENT, b"last", timeout=60)
    errors = Errors()
    reader = await connections.anonymous(**watched(errors))
    stored = await reader.jetstream().subscribe(subjects.events(), stream=STREAM, ordered_consumer=True)
    seen = 0
    while (await stored.next_msg(timeout=30)).data != b"last":
        seen += 1
    assert seen == 601
    assert errors.violations() == []


@pytest.mark.parametrize(
    "subject",
    [
        EVENT,
        *(subjects.request(kind, "gpu-01") for kind in subjects.REQUESTS),
        subjects.wake("gpu-01"),
        subjects.probe("gpu-01"),
        subjects.answer("gpu-01", "x"),
        f"{subjects.inbox_prefix('gpu-01')}.x",
        f"{subjects.CONTROLPLANE_INBOX}.x",
        "$JS.API.STREAM.CREATE.OTHER",
        f"$JS.API.STREAM.UPDATE.{STREAM}",
        f"$JS.API.STREAM.DELETE.{STREAM}",
        f"$JS.API.STREAM.PURGE.{STREAM}",
        f"$JS.API.STREAM.MSG.DELETE.{STREAM}",
        "$JS.API.CONSUMER.CREATE.OTHER",
        f"$JS.API.CONSUMER.DELETE.{STREAM}.x",
        f"$JS.ACK.{STREAM}.x.1.1.1.1.1",
        "$SYS.REQ.SERVER.PING",
        "anything",
    ],
)
async def test_anonymous_can_publish_nothing_that_changes_anything(connections: Connections, subject: str) -> None:
    errors = Errors()
    reader = await connections.anonymous(**watched(errors))
    assert await refused(reader, errors, subject)


@pytest.mark.parametrize(
    "subject",
    [
        subjects.requests("claim"),
        subjects.wakes(),
        subjects.inboxes(),
        f"{subjects.CONTROLPLANE_INBOX}.>",
        ">",
        "$SYS.>",
    ],
)
async def test_anonymous_hears_nothing_but_events(connections: Connections, subject: str) -> None:
    errors = Errors()
    reader = await connections.anonymous(**watched(errors))
    assert await deaf(reader, errors, subject)


@pytest.mark.parametrize("verb", ["PURGE", "DELETE"])
async def test_no_reply_subject_makes_the_server_purge_or_delete_the_stream(
    connections: Connections, operator: Client, verb: str
) -> None:
    """The server publishes its answers where the asker says; that must not be a way around permissions."""
    deputy = f"$JS.API.STREAM.{verb}.{STREAM}"
    errors = Errors()
    reader = await connections.anonymous(**watched(errors))
    pulled = await reader.jetstream().pull_subscribe(
        subjects.events(), stream=STREAM, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
    )
    name = (await pulled.consumer_info()).name
    await reader.publish(f"$JS.API.CONSUMER.INFO.{STREAM}.{name}", b"", reply=deputy)
    await reader.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}", b"1", reply=deputy)
    config = {"deliver_subject": deputy, "ack_policy": "none", "deliver_policy": "all"}
    push = json.dumps({"stream_name": STREAM, "config": config}).encode()
    await reader.request(f"$JS.API.CONSUMER.CREATE.{STREAM}", push, timeout=60)
    await barrier(reader, errors)
    assert (await operator.jetstream().stream_info(STREAM)).state.messages == 1


async def test_without_the_anonymous_user_nobody_connects_without_credentials(tmp_path: Path) -> None:
    server = Natsd(tmp_path, anonymous=False)
    server.start()
    try:
        with pytest.raises(nats.errors.Error):
            await server.connect()
        await (await server.connect_node("gpu-01")).close()
    finally:
        server.kill()


async def test_another_installations_credentials_are_refused(natsd: Natsd, tmp_path: Path) -> None:
    stranger = Natsd(tmp_path).node("gpu-01")
    with pytest.raises(nats.errors.Error):
        await natsd.connect(stranger)


async def test_a_new_node_needs_no_restart_and_no_reload(natsd: Natsd, connections: Connections) -> None:
    before = natsd.log()
    for number in range(3):
        await connections.node(f"new-{number}")
    assert "Reload" not in natsd.log()[len(before) :]


async def test_expired_credentials_end_the_connection_and_are_refused_afterwards(
    natsd: Natsd, connections: Connections
) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    credentials = natsd.keys.mint_node("gpu-01", expires=expires)
    errors = Errors()
    closed = asyncio.Event()

    async def note() -> None:
        closed.set()

    await connections.credentials(credentials, closed_cb=note, **watched(errors))
    await asyncio.wait_for(closed.wait(), timeout=60)
    assert datetime.now(UTC) >= expires

    async def refused_now() -> bool:
        """In the very second in which they expire, the server may still let them in, and out again."""
        try:
            client = await natsd.connect(credentials)
        except nats.errors.Error:
            return True
        await client.close()
        return False

    await eventually(refused_now)


async def test_a_credential_may_allow_nothing_at_all(natsd: Natsd, connections: Connections) -> None:
    errors = Errors()
    client = await connections.credentials(natsd.keys.mint_user("nobody", Permissions((), ())), **watched(errors))
    assert await refused(client, errors, "x")
    assert await deaf(client, errors, "x")


async def test_a_violation_is_told_to_the_client_by_its_error_callback(connections: Connections) -> None:
    errors = Errors()
    node = await connections.node("gpu-01", **watched(errors))
    with pytest.raises(nats.errors.TimeoutError):
        await node.request(subjects.request("sync", "gpu-02"), b"", timeout=0.3)
    assert await eventually(errors.violations) == [
        'nats: permissions violation for publish to "trainplane.v1.sync.gpu-02"'
    ]


def test_a_node_whose_name_is_no_subject_token_gets_no_credentials() -> None:
    for name in ("", "a.b", "*", ">", "a b", "ä", "x" * 64):
        with pytest.raises(ValueError, match="node must be"):
            permissions.node(name)
