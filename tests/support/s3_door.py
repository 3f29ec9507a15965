"""An HTTP proxy before an S3 and STS server: tells every call apart, keeps who made it, and misbehaves as told.

boto3 ──► Door ──► moto
           │ calls: operation, bucket, key, access key, role sessions given out
           └ faults: refuse, answer 200 with an error, cut, hold; each counts how often it really did
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_ACCESS_KEY = re.compile(r"Credential=([^/]+)/\d+/[^/]*/(\w+)/")
_GIVEN_KEY = re.compile(rb"<AccessKeyId>([^<]+)</AccessKeyId>")
_HOP = {"connection", "transfer-encoding", "keep-alive"}
_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Call:
    """One request. `operation` is S3's or STS's name of it."""

    operation: str
    bucket: str
    key: str
    access_key: str
    form: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """Something to do wrong with the next `times` calls of the operations (none: of all). `done` counts them."""

    operations: frozenset[str]
    act: Callable[[_Handler, Call, bytes], None]
    times: int
    key_ends: str = ""
    skip: int = 0
    """So many calls pass first."""
    done: int = 0
    holding: int = 0
    """Of `hold`: the calls that are without an answer at this moment."""

    def takes(self, call: Call) -> bool:
        """Whether this call is hit. Called once for each call."""
        meant = not self.operations or call.operation in self.operations
        if self.done >= self.times or not meant or not call.key.endswith(self.key_ends):
            return False
        self.skip -= 1
        return self.skip < 0


class Door:
    """See the module. A context manager; every method may be called while calls are under way."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.calls: list[Call] = []
        self.sessions: dict[str, tuple[str, str]] = {}
        """By access key: role and session name that it was given out for."""
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        door = self

        class Handler(_Handler):
            owner = door

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        """Forget calls, sessions and faults."""
        with self._lock:
            self.calls, self._faults = [], []
            self.sessions = {}

    def operations(self, *, by: str = "") -> list[str]:
        """What was called, in order; `by`: with this access key only."""
        return [call.operation for call in self.calls if by in {"", call.access_key}]

    def refuse(
        self,
        *operations: str,
        code: str,
        status: int,
        times: int = 10_000,
        key_ends: str = "",
        message: str = "told so",
    ) -> Fault:
        """Answer with an error; a status of 200 makes it an error that looks like a success."""
        return self._add(operations, lambda handler, *_: handler.say_error(status, code, message), times, key_ends)

    def refuse_after(self, calls: int, *, code: str, status: int) -> Fault:
        """Let so many calls pass, of whatever kind, and refuse all after them."""
        fault = self.refuse(code=code, status=status)
        fault.skip = calls
        return fault

    def cut_request(self, *operations: str, after_bytes: int, times: int = 1, key_ends: str = "") -> Fault:
        """Take so much of the body, and reset the connection."""

        def act(handler: _Handler, _: Call, body: bytes) -> None:
            assert len(body) >= after_bytes, "the body was whole before the cut"
            handler.cut()

        fault = self._add(operations, act, times, key_ends)
        fault.act.__dict__["after_bytes"] = after_bytes
        return fault

    def cut_answer(self, *operations: str, after_bytes: int, times: int = 1, key_ends: str = "") -> Fault:
        """Give so much of the answer's body, and reset the connection."""

        def act(handler: _Handler, call: Call, body: bytes) -> None:
            handler.forward(call, body, cut_after_bytes=after_bytes)

        return self._add(operations, act, times, key_ends)

    def lose_answer(self, *operations: str, times: int = 1) -> Fault:
        """Do it, and reset the connection instead of saying so."""

        def act(handler: _Handler, call: Call, body: bytes) -> None:
            handler.forward(call, body, cut_after_bytes=-1)

        return self._add(operations, act, times, "")

    def alter(self, *operations: str, times: int = 1, key_ends: str = "") -> Fault:
        """Change the first byte of the body on its way to the store. moto takes no notice; S3 would."""

        def act(handler: _Handler, call: Call, body: bytes) -> None:
            handler.forward(call, bytes([body[0] ^ 1]) + body[1:])

        return self._add(operations, act, times, key_ends)

    def alter_answer(self, *operations: str, times: int = 1) -> Fault:
        """Change the first byte of the answer's body on its way here."""

        def act(handler: _Handler, call: Call, body: bytes) -> None:
            handler.forward(call, body, altered=True)

        return self._add(operations, act, times, "")

    def hold(self, *operations: str, until: threading.Event, times: int = 1) -> Fault:
        """Be silent until told."""

        def act(handler: _Handler, _: Call, __: bytes) -> None:
            with self._lock:
                fault.holding += 1
            until.wait(60)
            with self._lock:
                fault.holding -= 1
            handler.cut()

        fault = self._add(operations, act, times, "")
        return fault

    def _add(self, operations: tuple[str, ...], act: Any, times: int, key_ends: str) -> Fault:
        fault = Fault(frozenset(operations), act, times, key_ends)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _noted(self, call: Call) -> Fault | None:
        with self._lock:
            self.calls.append(call)
            for fault in self._faults:
                if fault.takes(call):
                    fault.done += 1
                    return fault
        return None

    def _given(self, call: Call, answer: bytes) -> None:
        found = _GIVEN_KEY.search(answer)
        if found:
            with self._lock:
                self.sessions[found[1].decode()] = (call.form["RoleArn"], call.form["RoleSessionName"])


class _Handler(BaseHTTPRequestHandler):
    owner: Door
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        form: dict[str, str] = {}
        body = b""
        signed = _ACCESS_KEY.search(self.headers.get("Authorization", ""))
        service = signed[2] if signed else "s3"
        if service == "sts":
            body = self.rfile.read(length)
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        call = _call(self, signed[1] if signed else "", form)
        fault = self.owner._noted(call)
        if fault is None:
            self.forward(call, body or self.rfile.read(length))
            return
        upto = getattr(fault.act, "after_bytes", length)
        fault.act(self, call, body or self.rfile.read(min(upto, length)))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815  # the library's names

    def forward(self, call: Call, body: bytes, *, cut_after_bytes: int | None = None, altered: bool = False) -> None:
        target = self.owner.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=120)
        try:
            sent = {name: value for name, value in self.headers.items() if name.lower() not in {*_HOP, "expect"}}
            connection.request(self.command, self.path, body=body, headers=sent)
            answer = connection.getresponse()
            content = answer.read()
            content = bytes([content[0] ^ 1]) + content[1:] if altered else content
        finally:
            connection.close()
        if call.operation == "AssumeRole":
            self.owner._given(call, content)
        if cut_after_bytes == -1:
            self.cut()
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {*_HOP, "content-length"}:
                self.send_header(name, value)
        length = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if cut_after_bytes is not None:
            assert cut_after_bytes < len(content), "the answer was whole before the cut"
            self.wfile.write(content[:cut_after_bytes])
            self.cut()
            return
        for start in range(0, len(content), _BLOCK_BYTES):
            self.wfile.write(content[start : start + _BLOCK_BYTES])

    def say_error(self, status: int, code: str, message: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        if "sts" in self.headers.get("Authorization", ""):
            content = b"<ErrorResponse>" + content + b"<RequestId>r</RequestId></ErrorResponse>"
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def cut(self) -> None:
        """A TCP reset, not an orderly end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError, OSError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _call(handler: _Handler, access_key: str, form: dict[str, str]) -> Call:
    if form:
        return Call(form["Action"], "", "", access_key, form)
    parts = urlsplit(handler.path)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    return Call(_operation(handler, key, query), bucket, key, access_key)


def _operation(handler: _Handler, key: str, query: dict[str, list[str]]) -> str:
    method = handler.command
    copying = "x-amz-copy-source" in handler.headers
    if "uploadId" in query:
        named = {"PUT": "UploadPartCopy" if copying else "UploadPart", "POST": "CompleteMultipartUpload"}
        return named.get(method, "AbortMultipartUpload")
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "delete" in query:
        return "DeleteObjects"
    if not key:
        return "ListObjectsV2" if method == "GET" else f"{method.title()}Bucket"
    return "CopyObject" if copying else f"{method.title()}Object"
