"""gRPC calls over an HTTP/2 connection of their own, with next to no CPU time of the client's.

A gRPC client in Python takes as much CPU time a call as the server does: on two cores, the clients are then half of
what is measured. Here every request is a header block made once and one DATA frame, and of an answer only the frames'
own headers are read (RFC 9113; gRPC over HTTP/2). An answer with a message is OK: an error has trailers alone.

    HEADERS DATA+END_STREAM ──►
                            ◄── HEADERS DATA HEADERS+END_STREAM      OK
                            ◄── HEADERS DATA DATA DATA …             a stream of messages
                            ◄── HEADERS+END_STREAM                   refused
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_LARGEST_WINDOW = 2**31 - 1
_WINDOW = 65_535
_HEADER = struct.Struct("!HBBBI")
_LENGTH = struct.Struct("!BI")
_C = TypeVar("_C", bound="_Connection")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing (RFC 7541); `name` is its prefix byte, or is spelled out."""
    return name + bytes([len(value)]) + value


def _header_block(method: str, authority: str) -> bytes:
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + _literal(b"\x04", method.encode())
        + _literal(b"\x01", authority.encode())
        + _literal(b"\x0f\x10", b"application/grpc")
        + _literal(b"\x00\x02te", b"trailers")
    )


class Refused(Exception):  # noqa: N818 - it says what happened
    """The server answered an error, or ended the connection."""


class _Connection(asyncio.Protocol):
    """One connection: greets, answers what must be answered, and hands on whole frames."""

    def __init__(self, method: str, authority: str) -> None:
        self._block = _header_block(method, authority)
        self._buffer = bytearray()
        self._stream = -1
        self._window = _WINDOW
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set by the server's first SETTINGS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opens both windows as far as they go: nobody has to be told that they may send."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack("!HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        window = struct.pack("!I", _LARGEST_WINDOW - _WINDOW)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window))

    def data_received(self, data: bytes) -> None:
        """Reads whole frames."""
        buffer = self._buffer
        buffer += data
        start, length = 0, len(buffer)
        while length - start >= _HEADER.size:
            high, low, kind, flags, stream = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + (high << 8) + low
            if length < end:
                break
            self._take(kind, flags, stream, bytes(buffer[start + _HEADER.size : end]))
            start = end
        del buffer[:start]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in {_DATA, _HEADERS}:
            self._answered(kind, flags, stream, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
            if not self.settled.done():
                self.settled.set_result(None)
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind in {_GOAWAY, _RST_STREAM}:
            self._end(stream, Refused(f"the server ended the call: {payload!r}"))

    def _send(self, message: bytes) -> int:
        """Begins a call; its stream."""
        self._stream += 2
        self._window -= len(message) + _LENGTH.size
        assert self._window >= 0, "the server opens the connection's window too late for so many calls"
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, self._stream, self._block)
            + _frame(_DATA, _END_STREAM, self._stream, _LENGTH.pack(0, len(message)) + message)
        )
        return self._stream

    def _answered(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        raise NotImplementedError

    def _end(self, stream: int, refused: Refused | None) -> None:
        raise NotImplementedError

    def connection_lost(self, _error: Exception | None) -> None:
        """Whoever waits hears of it."""
        self._end(0, Refused("the connection was lost"))

    def close(self) -> None:
        """Closes the connection."""
        self._transport.abort()


class Connection(_Connection):
    """Unary calls, one at a time. Made by `connected`."""

    _has_message = False
    _answer: asyncio.Future[None] | None = None

    async def call(self, message: bytes) -> None:
        """Returns when the call was answered with a message.

        Raises:
            Refused: it was not.
        """
        self._has_message = False
        self._answer = asyncio.get_running_loop().create_future()
        self._send(message)
        await self._answer

    def _answered(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if stream == self._stream:
            self._has_message |= kind == _DATA
            if flags & _END_STREAM:
                self._end(stream, None if self._has_message else Refused(f"trailers alone: {payload!r}"))

    def _end(self, stream: int, refused: Refused | None) -> None:
        if self._answer is None or self._answer.done() or stream not in {0, self._stream}:
            return
        if refused is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(refused)


class Streams(_Connection):
    """Calls that are answered by streams of messages, any number at a time. Made by `connected`.

    A stream that is refused or ends has had its last message: whoever counts them finds out.
    """

    def __init__(self, method: str, authority: str) -> None:
        super().__init__(method, authority)
        self._readers: dict[int, Callable[[bytes], None]] = {}
        self._torn: dict[int, bytes] = {}
        """The beginning of a message, of which the rest is to come."""

    def open(self, message: bytes, reader: Callable[[bytes], None]) -> None:
        """Begins a call; `reader` gets each message of its answer."""
        self._readers[self._send(message)] = reader

    def _answered(self, kind: int, flags: int, stream: int, payload: bytes) -> None:  # noqa: ARG002
        if kind != _DATA:
            return
        if stream in self._torn:
            payload = self._torn.pop(stream) + payload
        start = 0
        while len(payload) - start >= _LENGTH.size:
            _, length = _LENGTH.unpack_from(payload, start)
            end = start + _LENGTH.size + length
            if len(payload) < end:
                break
            self._readers[stream](payload[start + _LENGTH.size : end])
            start = end
        if start < len(payload):
            self._torn[stream] = payload[start:]

    def _end(self, stream: int, refused: Refused | None) -> None:
        """Nobody waits."""


async def connected(address: str, method: str, kind: type[_C]) -> _C:
    """A connection to `host:port` for calls of one method, which the server has greeted."""
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(lambda: kind(method, address), host, int(port))
    await connection.settled
    return connection
