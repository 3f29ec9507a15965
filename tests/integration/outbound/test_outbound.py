"""The guarded client against real servers: whom it calls, and what it makes of bad manners."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from controlplane import settings
from controlplane.http.outbound import GuardedClient, GuardedResolver
from trainplane.addresses import OutboundRules

LOOPBACK = OutboundRules.of(networks=("127.0.0.0/8", "::1/128"))
NOBODY = OutboundRules.of()
SECOND = timedelta(seconds=1)


class Server:
    """A server that says these bytes to whoever sends a whole request, and keeps what it heard."""

    def __init__(self, *chunks: bytes | float) -> None:
        self.chunks = chunks
        self.heard: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            self.heard.append(head + await reader.readexactly(size))
            for chunk in self.chunks:
                if isinstance(chunk, float):
                    await asyncio.sleep(chunk)
                else:
                    writer.write(chunk)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*chunks, host="127.0.0.1", tls=None):
    server = Server(*chunks)
    async with await asyncio.start_server(server.serve, host, 0, ssl=tls) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server


@asynccontextmanager
async def client(rules=LOOPBACK, **more):
    made = GuardedClient(rules, **more)
    try:
        yield made
    finally:
        await made.close()


def post(made, url, *, deadline=5 * SECOND, headers=None):
    return made.post(url, body=b'{"n":1}', headers=headers or {"content-type": "application/json"}, deadline=deadline)


OK = b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_a_post_arrives_as_it_was_given():
    async with serving(OK) as server, client() as made:
        answer = await post(made, f"http://127.0.0.1:{server.port}/hook?x=1", headers={"webhook-id": "u.1"})
        assert (answer.status_code, answer.detail) == (204, "")
        head, _, body = server.heard[0].partition(b"\r\n\r\n")
        assert body == b'{"n":1}'
        assert head.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
        assert b"webhook-id: u.1" in head.lower()
        assert b"user-agent: trainplane\r\n" in head.lower()


# whom it calls


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "localhost.", "LOCALHOST", "x.localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433",
        "0x7f000001", "0177.0.0.1", "127.1", "0", "169.254.169.254", "2852039166", "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]", "10.0.0.1", "224.0.0.1", "[fe80::1%25lo]",
    ],
)  # fmt: skip
async def test_an_address_that_is_not_public_is_not_called_however_it_is_written(host):
    async with serving(OK) as server, client(NOBODY) as made:
        answer = await post(made, f"http://{host}:{server.port}/")
        assert answer.status_code == 0
        assert server.connections == 0


@pytest.mark.parametrize("url", ["http://public.test\\@127.0.0.1:{}/", "http://public.test#@127.0.0.1:{}/", "http://a:b@127.0.0.1:{}/", "//127.0.0.1:{}/", "http:///127.0.0.1:{}", "http://[127.0.0.1:{}/", ""])  # fmt: skip
async def test_a_url_that_parsers_may_read_differently_is_not_a_way_in(url):
    resolver = GuardedResolver(NOBODY, lookup=lambda host, port, family: ["127.0.0.1"])
    async with serving(OK) as server, client(NOBODY, resolver=resolver) as made:
        assert (await post(made, url.format(server.port))).status_code == 0
        assert server.connections == 0


async def test_a_name_that_resolves_to_an_address_that_is_not_public_is_blocked_in_words():
    resolver = GuardedResolver(NOBODY, lookup=lambda host, port, family: ["127.0.0.1"])
    async with serving(OK) as server, client(NOBODY, resolver=resolver) as made:
        answer = await post(made, f"http://hooks.test:{server.port}/")
        assert answer.status_code == 0
        assert answer.detail == "hooks.test resolves to an address that is not public and not allowed by setting"
        assert server.connections == 0


async def test_one_bad_address_among_good_ones_refuses_the_name():
    resolver = GuardedResolver(NOBODY, lookup=lambda host, port, family: ["93.184.216.34", "127.0.0.1"])
    async with serving(OK) as server, client(NOBODY, resolver=resolver) as made:
        assert "not public" in (await post(made, f"http://hooks.test:{server.port}/")).detail
        assert server.connections == 0


async def test_a_name_that_is_allowed_by_setting_is_called_whatever_it_resolves_to():
    rules = OutboundRules.of(hosts=("*.internal",))
    resolver = GuardedResolver(rules, lookup=lambda host, port, family: ["127.0.0.1"])
    async with serving(OK) as server, client(rules, resolver=resolver) as made:
        assert (await post(made, f"http://hooks.internal:{server.port}/")).status_code == 204
        assert "not public" in (await post(made, f"http://hooks.external:{server.port}/")).detail
        assert server.connections == 1


async def test_the_connection_goes_to_the_address_that_was_judged_not_to_the_resolver_s_next_answer():
    """DNS rebinding: the first answer is allowed, each later one is another server's."""
    rules = OutboundRules.of(networks=("127.0.0.2/32",))
    answers = [["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]]
    asked = []

    def lookup(host, port, family):
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    async with (
        serving(OK, host="127.0.0.2") as judged,
        client(rules, resolver=GuardedResolver(rules, lookup=lookup, fresh_seconds=0)) as made,
    ):
        answer = await post(made, f"http://rebind.test:{judged.port}/")
        assert answer.status_code == 204
        assert asked == ["rebind.test"]
        second = await post(made, f"http://rebind.test:{judged.port}/")
        assert second.status_code == 0 or judged.connections == 2
        assert "not public" in (await post(made, f"http://rebind.test:{judged.port}/")).detail


async def test_a_name_that_does_not_resolve_is_an_outcome():
    def lookup(host, port, family):
        raise OSError(-2, "Name or service not known")

    async with client(NOBODY, resolver=GuardedResolver(NOBODY, lookup=lookup)) as made:
        answer = await post(made, "http://nowhere.test/")
        assert (answer.status_code, answer.detail) == (0, "no connection: Name or service not known")


async def test_redirects_are_not_followed():
    async with serving(OK) as target:
        moved = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:%d/\r\ncontent-length: 0\r\n\r\n" % target.port
        async with serving(moved) as server, client() as made:
            answer = await post(made, f"http://127.0.0.1:{server.port}/")
            assert (answer.status_code, target.connections) == (302, 0)
            assert "not followed" in answer.detail


async def test_the_environment_s_proxy_is_not_used(monkeypatch):
    async with serving(OK) as proxy, serving(OK) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with client() as made:
            assert (await post(made, f"http://127.0.0.1:{server.port}/")).status_code == 204
            assert proxy.connections == 0


# bad manners


async def test_headers_that_drip_end_at_the_deadline():
    drip = [part for byte in OK for part in (bytes([byte]), 0.2)]
    async with serving(*drip) as server, client() as made:
        answer = await post(made, f"http://127.0.0.1:{server.port}/", deadline=0.5 * SECOND)
        assert (answer.status_code, answer.detail) == (0, "no answer within 0.5 s")
        assert timedelta(seconds=0.4) < answer.duration < 2 * SECOND


async def test_a_name_server_that_hangs_ends_at_the_deadline():
    import threading

    free = threading.Event()

    def lookup(host, port, family):
        free.wait(10)
        return ["127.0.0.1"]

    async with client(resolver=GuardedResolver(LOOPBACK, lookup=lookup)) as made:
        answer = await post(made, "http://hooks.test/", deadline=0.3 * SECOND)
        free.set()
        assert answer.detail == "no answer within 0.3 s"


async def test_a_huge_body_is_not_read():
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n"
    async with serving(head, *[b"x" * 65536] * 2000) as server, client() as made:
        answer = await post(made, f"http://127.0.0.1:{server.port}/")
        assert answer.status_code == 200
        assert answer.duration < 4 * SECOND


@pytest.mark.parametrize(
    "said",
    [
        b"", b"HTTP/1.1 ", b"garbage\r\n\r\n", b"HTTP/1.1 99999 X\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot a chunk\r\n", b"\x16\x03\x01\x02",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
    ],
    ids=range(8),
)  # fmt: skip
async def test_an_answer_that_is_none_is_an_outcome_in_words(said):
    async with serving(said) as server, client() as made:
        answer = await post(made, f"http://127.0.0.1:{server.port}/", deadline=2 * SECOND)
        assert answer.status_code in {0, 200}
        assert answer.status_code or answer.detail


async def test_a_reset_and_a_closed_port_are_outcomes():
    import socket

    async def reset(_reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server, client() as made:
        port = server.sockets[0].getsockname()[1]
        assert (await post(made, f"http://127.0.0.1:{port}/")).detail.startswith("no answer: ")
    async with client() as made:
        answer = await post(made, f"http://127.0.0.1:{port}/")
        assert answer.status_code == 0
        assert answer.detail.startswith("no connection: ")


async def test_a_header_that_would_split_the_request_is_not_sent():
    async with serving(OK) as server, client() as made:
        answer = await post(made, f"http://127.0.0.1:{server.port}/", headers={"authorization": "x\r\nhost: evil"})
        assert (answer.status_code, server.heard) == (0, [])
        assert "evil" not in answer.detail


@pytest.mark.parametrize(
    ("header", "expected"),
    [("120", 120), (" 7 ", 7), ("99999999999999999999", 1e8), ("soon", None), ("-5", None), ("", None), ("1.5", None)],
)
async def test_retry_after_in_seconds(header, expected):
    said = f"HTTP/1.1 503 X\r\ncontent-length: 0\r\nretry-after: {header}\r\n\r\n".encode()
    async with serving(said) as server, client() as made:
        answer = await post(made, f"http://127.0.0.1:{server.port}/")
        found = answer.retry_after
        assert (found and found.total_seconds()) == expected


async def test_retry_after_as_a_date_and_as_nonsense():
    for date, low, high in (
        (format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True), 95, 100),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00", 0, 0),  # without a zone
    ):
        said = f"HTTP/1.1 429 X\r\ncontent-length: 0\r\nretry-after: {date}\r\n\r\n".encode()
        async with serving(said) as server, client() as made:
            answer = await post(made, f"http://127.0.0.1:{server.port}/")
            assert answer.status_code == 429
            if answer.retry_after is not None:
                assert low <= answer.retry_after.total_seconds() <= high


async def test_slow_ones_at_one_host_do_not_keep_others_there_from_being_tried():
    async with serving(3.0, OK) as slow, client() as made:
        waiting = [asyncio.ensure_future(post(made, f"http://127.0.0.1:{slow.port}/")) for _ in range(40)]
        async with asyncio.timeout(2.5):
            while slow.connections < 40:
                await asyncio.sleep(0.01)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A key and a certificate of hooks.test, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hooks.test"
    extra = ["-addext", "subjectAltName=DNS:hooks.test", "-keyout", folder / "key", "-out", folder / "pem"]
    subprocess.run([*argv.split(), *extra], check=True, capture_output=True)
    return folder


@asynccontextmanager
async def over_tls(certificate, name, *, trusted):
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    here.load_cert_chain(certificate / "pem", certificate / "key")
    there = ssl.create_default_context(cafile=certificate / "pem") if trusted else None
    resolver = GuardedResolver(LOOPBACK, lookup=lambda host, port, family: ["127.0.0.1"])
    async with serving(OK, tls=here) as server, client(tls=there, resolver=resolver) as made:
        yield await post(made, f"https://{name}:{server.port}/"), server


async def test_tls_verifies_the_name_and_the_certificate(certificate):
    async with over_tls(certificate, "hooks.test", trusted=True) as (answer, server):
        assert (answer.status_code, len(server.heard)) == (204, 1)
    for name, trusted in (("other.test", True), ("hooks.test", False)):
        async with over_tls(certificate, name, trusted=trusted) as (answer, server):
            assert (answer.status_code, server.heard) == (0, [])
            assert answer.detail.startswith("no ")


async def test_a_server_that_speaks_no_tls_is_an_outcome():
    async with serving(OK) as server, client() as made:
        answer = await post(made, f"https://127.0.0.1:{server.port}/", deadline=2 * SECOND)
        assert answer.status_code == 0
        assert answer.detail


async def test_a_certificate_that_nobody_vouches_for_is_an_outcome_that_names_the_setting(certificate):
    async with over_tls(certificate, "hooks.test", trusted=False) as (answer, _):
        assert answer.detail == "no trust in its certificate: self-signed certificate; `ca_bundle` names further CAs"


# where an operator says that a name is reached


async def test_a_name_is_reached_where_the_operator_says_and_tls_still_verifies_the_name(certificate):
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    here.load_cert_chain(certificate / "pem", certificate / "key")
    there = settings.load({"ca_bundle": str(certificate / "pem")}).outbound_tls()
    async with serving(OK, tls=here) as server:
        reached = f"127.0.0.1:{server.port}"
        rules = OutboundRules.of(connect_to={"Hooks.test:443": reached, "other.test:443": reached})
        async with client(rules, tls=there) as made:
            assert (await post(made, "https://hooks.test/x")).status_code == 204
            assert b"\r\nhost: hooks.test\r\n" in server.heard[0].lower()
            refused = await post(made, "https://other.test/x")
            assert (refused.status_code, len(server.heard)) == (0, 1)
            assert "Hostname mismatch" in refused.detail


async def test_only_the_very_place_is_reached_elsewhere():
    async with serving(OK) as server:
        rules = OutboundRules.of(connect_to={"hooks.test:80": f"127.0.0.1:{server.port}"})
        resolver = GuardedResolver(rules, lookup=lambda host, port, family: ["127.0.0.1"])
        async with client(rules, resolver=resolver) as made:
            assert (await post(made, "http://hooks.test/")).status_code == 204
            for other in ("http://hooks.test:81/", "http://x.hooks.test/", f"http://127.0.0.1:{server.port}/"):
                assert "not public" in (await post(made, other)).detail
            assert server.connections == 1


async def test_a_name_may_be_reached_at_another_name():
    asked = []

    def lookup(host, port, family):
        asked.append((host, port))
        return ["127.0.0.1"]

    async with serving(OK) as server:
        rules = OutboundRules.of(connect_to={"hooks.test:80": f"relay.test:{server.port}"})
        async with client(rules, resolver=GuardedResolver(rules, lookup=lookup)) as made:
            assert (await post(made, "http://hooks.test/")).status_code == 204
            assert asked == [("relay.test", server.port)]
