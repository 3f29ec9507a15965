"""HTTP spoken byte by byte, so that a test decides what is sent and no client library mends or refuses it."""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.envoy import Gateway

SECONDS = 20


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(gateway: Gateway, raw: bytes) -> Answer:
    """Send bytes, and read one answer until the gateway closes or its length is reached."""
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    try:
        writer.write(raw)
        async with asyncio.timeout(SECONDS):
            return await read_answer(reader)
    finally:
        writer.close()


async def call(
    gateway: Gateway, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """Make one request with exactly these headers, a Host unless given, and a length if there is a body."""
    return await exchange(gateway, request(method, path, headers=headers, body=body))


def request(method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes | None = None) -> bytes:
    sent = {"host": "localhost", **(headers or {})}
    if body is not None and "transfer-encoding" not in sent:
        sent["content-length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + (body or b"")


async def post_json(gateway: Gateway, path: str, body: bytes, **headers: str) -> Answer:
    sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(gateway, "POST", path, headers=sent, body=body)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status_line.split(" ")[1]), headers


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    status, headers = await read_head(reader)
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while chunk := await read_chunk(reader):
            body += chunk
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return Answer(status, headers, body)


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readuntil(b"\r\n"), 16)
    chunk = await reader.readexactly(size)
    await reader.readexactly(2)
    return chunk


@asynccontextmanager
async def opened(
    gateway: Gateway, path: str, **headers: str
) -> AsyncIterator[tuple[int, dict[str, str], asyncio.StreamReader]]:
    """Open a stream, and go away at the end of the block."""
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port, limit=16_384)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        writer.write(request("GET", path, headers=sent))
        async with asyncio.timeout(SECONDS):
            status, answered = await read_head(reader)
        yield status, answered, reader
    finally:
        writer.close()


async def get_by_http2(gateway: Gateway, path: str) -> bytes:
    """Speak just enough HTTP/2, with prior knowledge, for one GET: the answer's body."""
    fields = {":method": "GET", ":scheme": "http", ":path": path, ":authority": "localhost"}
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    settings, headers, end_of_headers_and_stream = 4, 1, 5
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    try:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(settings, 0, 0, b""))
        writer.write(_frame(headers, end_of_headers_and_stream, 1, block))
        body = b""
        async with asyncio.timeout(SECONDS):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if kind == 0:
                    body += payload
                if kind in (0, 1) and flags & 1:
                    return body
    finally:
        writer.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def assert_error(answer: Answer, status: int, code: int, reason: str) -> status_pb2.Status:
    """Assert an error in the one shape that clients may rely on, and return it as the message that it is."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    error = json_format.ParseDict(answer.json, status_pb2.Status())
    assert error.code == code
    assert error.message
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in error.details)
    assert (info.reason, info.domain) == (reason, "trainplane.dev")
    assert info.metadata.get("request_id") == answer.headers.get("x-request-id")
    return error
