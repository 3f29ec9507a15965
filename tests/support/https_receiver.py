"""An HTTPS server of one name that takes what is posted to it: a webhook's, or a status stream's. In threads."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Posted:
    """One call that was answered with 204."""

    host: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """The CloudEvents in it, one or a batch."""
        said = json.loads(self.body)
        return said if isinstance(said, list) else [said]


class HttpsReceiver:
    """Answers 204, or 503 while `down` is set; `refused` counts these."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.posted: list[Posted] = []
        self.down = threading.Event()
        self.refused = 0
        self.looked = 0
        """How often somebody has asked for nothing (HEAD)."""
        self._server = _Server(("127.0.0.1", 0), _handler(self), tls)

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._server.server_port

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Every event of a job that arrived, in the order of their arrival."""
        return [event for posted in self.posted for event in posted.events if event["subject"] == job_id]

    def calls(self, job_id: str) -> list[Posted]:
        """Every call about a job."""
        return [posted for posted in self.posted if posted.events[0]["subject"] == job_id]

    @contextmanager
    def running(self) -> Iterator[HttpsReceiver]:
        """Serves in threads."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext) -> None:
        super().__init__(address, handler)
        self._tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread, so that a slow handshake holds up nobody."""
        with self._tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is the caller's matter."""


def _handler(receiver: HttpsReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if receiver.down.is_set():
                receiver.refused += 1
                self.send_response(503)
                self.send_header("content-length", "0")
            else:
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.posted.append(Posted(headers["host"], self.path, headers, body))
                self.send_response(204)
            self.end_headers()

        def do_HEAD(self) -> None:
            """As of an endpoint that takes events only."""
            self.send_response(503 if receiver.down.is_set() else 405)
            receiver.looked += 1
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Silent: `posted` is the record."""

    return Handler
