"""Unary gRPC calls over an HTTP/2 connection of their own, with next to no CPU time of the client's.

A gRPC client in Python takes as much CPU time a call as the server does: on two cores, the clients are then half of
what is measured. Here every request is a header block made once and one DATA frame, and of an answer only the frames'
own headers are read (RFC 9113; gRPC over HTTP/2). An answer with a message is OK: an error has trailers alone.

    HEADERS DATA+END_STREAM ──►
                            ◄── HEADERS DATA HEADERS+END_STREAM      OK
                            ◄── HEADERS+END_STREAM                   refused
"""

from __future__ import annotations

import asyncio
import struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_LARGEST_WINDOW = 2**31 - 1
_WINDOW = 65_535
_HEADER = struct.Struct("!HBBBI")
_LENGTH = struct.Struct("!BI")


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


class Connection(asyncio.Protocol):
    """One connection, one call at a time. Made by `connected`."""

    def __init__(self, method: str, authority: str) -> None:
        self._block = _header_block(method, authority)
        self._buffer = bytearray()
        self._stream = -1
        self._window = _WINDOW
        self._has_message = False
        self._answer: asyncio.Future[None] | None = None
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set by the server's first SETTINGS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opens both windows as far as they go: nobody has to be told that they may send."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack("!HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        window = struct.pack("!I", _LARGEST_WINDOW - _WINDOW)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window))

    async def call(self, message: bytes) -> None:
        """Returns when the call was answered with a message.

        Raises:
            Refused: it was not.
        """
        self._stream += 2
        self._has_message = False
        self._window -= len(message) + _LENGTH.size
        assert self._window >= 0, "the server opens the connection's window too late for one call at a time"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, self._stream, self._block)
            + _frame(_DATA, _END_STREAM, self._stream, _LENGTH.pack(0, len(message)) + message)
        )
        await self._answer

    def data_received(self, data: bytes) -> None:
        """Reads whole frames."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            high, low, kind, flags, stream = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + (high << 8) + low
            if len(buffer) < end:
                break
            self._take(kind, flags, stream, bytes(buffer[start + _HEADER.size : end]))
            start = end
        del buffer[:start]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
            if not self.settled.done():
                self.settled.set_result(None)
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind == _GOAWAY or (kind == _RST_STREAM and stream == self._stream):
            self._end(Refused(f"the server ended the call: {payload!r}"))
        elif kind in {_DATA, _HEADERS} and stream == self._stream:
            self._has_message |= kind == _DATA
            if flags & _END_STREAM:
                self._end(None if self._has_message else Refused(f"trailers alone: {payload!r}"))

    def connection_lost(self, _error: Exception | None) -> None:
        """Whoever waits hears of it."""
        self._end(Refused("the connection was lost"))

    def _end(self, refused: Refused | None) -> None:
        if self._answer is None or self._answer.done():
            return
        if refused is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(refused)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.abort()


async def connected(address: str, method: str) -> Connection:
    """A connection to `host:port` for calls of one method, which the server has greeted."""
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(method, address), host, int(port)
    )
    await connection.settled
    return connection
