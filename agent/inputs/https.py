"""Downloads by https from an address that a user gave us, without becoming their way into our network.

As the control plane's outbound client (`trainplane.addresses`): a name is resolved once, every address must be allowed,
and the connection goes to that very address; TLS verifies the name. A redirect is followed to another https address
that passes the same, a few times. The size must be told beforehand, and is bounded.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from agent.inputs.failures import (
    CONFIG_INVALID,
    MODEL_NOT_FOUND,
    STORAGE_DENIED,
    STORAGE_UNAVAILABLE,
    InputError,
    disk_full,
    is_disk_full,
)
from trainplane.addresses import OutboundRules, literal_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_REDIRECTS = 5
_RANGE_NOT_SATISFIABLE = 416
_MOVED = frozenset({301, 302, 303, 307, 308})
_SILENCE_SECONDS = 30.0
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first bytes of something, and how long all of it is. `name`: its last name, with the suffix."""

    data: bytes
    size_bytes: int
    name: str

    @property
    def whole(self) -> bool:
        """Whether there is no more."""
        return len(self.data) >= self.size_bytes


@dataclass(frozen=True, slots=True)
class Download:
    """One download.

    Attributes:
        url: https.
        field: the spec's field that names it, for messages.
        limit_bytes: how large it may be.
        rules: which addresses may be reached beside the public internet.
        ca_bundle: PEM file of authorities to trust beside the system's.
        missing: the reason where nothing is there.
        tag: the ETag of the content that is wanted; empty: any.
    """

    url: str
    field: str
    limit_bytes: int
    rules: OutboundRules
    ca_bundle: str | None = None
    missing: str = MODEL_NOT_FOUND
    tag: str = ""

    def look(self) -> tuple[str, int]:
        """The content's ETag, empty where there is none that tells every content from another, and its size.

        Raises:
            InputError: as below.
        """
        try:
            with self._opened({}) as answer:
                tag = answer.headers.get("etag") or ""
                return "" if tag.startswith("W/") else tag, self._length(answer)
        except (http.client.HTTPException, OSError) as error:
            raise self._unavailable(getattr(error, "strerror", None) or type(error).__name__) from error

    def into(self, target: Path, *, expects: Callable[[int], None]) -> None:
        """Bring it into a file, going on where a former download of the same content was cut off.

        Args:
            target: the file; while it is not whole, `<name>.part` beside it, with the content's ETag in `<name>.etag`.
            expects: called with the size, before the first byte.

        Raises:
            InputError: it is not there, not allowed, too large, or does not come.
        """
        try:
            self._bring(target, expects)
        except (http.client.HTTPException, OSError) as error:
            if is_disk_full(error):
                raise disk_full(f"{self.field}: the node's disk") from error
            raise self._unavailable(getattr(error, "strerror", None) or type(error).__name__) from error

    def beginning(self, size_bytes: int) -> Beginning:
        """Its first bytes, and how long all of it is; a server that knows no ranges is not read further.

        Raises:
            InputError: as above.
        """
        name = PurePosixPath(urlsplit(self.url).path).name
        try:
            with self._opened({"range": f"bytes=0-{size_bytes - 1}"}) as answer:
                if answer.status == _RANGE_NOT_SATISFIABLE:
                    return Beginning(b"", 0, name)
                told = answer.headers.get("content-range", "").rpartition("/")[2]
                whole = int(told) if answer.status == 206 and told.isdigit() else self._length(answer)
                return Beginning(answer.read(size_bytes), whole, name)
        except (http.client.HTTPException, OSError) as error:
            raise self._unavailable(getattr(error, "strerror", None) or type(error).__name__) from error

    def _bring(self, target: Path, expects: Callable[[int], None]) -> None:
        part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.etag")
        known = tag.read_text(encoding="utf-8") if part.exists() and tag.exists() else ""
        begun = part.stat().st_size if known else 0
        # Without an ETag nothing proves that the rest belongs to what is here.
        resuming = {"range": f"bytes={begun}-", "if-range": known} if begun else {}
        with self._opened(resuming) as answer:
            if answer.status == _RANGE_NOT_SATISFIABLE:  # more is here than there is
                part.unlink()
                raise self._unavailable("it is another content than it was")
            if self.tag and answer.headers.get("etag") != self.tag:
                raise self._unavailable("it was replaced while it was fetched")
            first = begun if answer.status == 206 else 0
            size = first + self._length(answer)
            if size > self.limit_bytes:
                raise InputError(
                    CONFIG_INVALID,
                    f"{self.field}: {size / 2**30:.1f} GiB are more than this node takes "
                    f"({self.limit_bytes / 2**30:.1f} GiB, setting cache_gb)",
                )
            expects(size)
            tag.write_text(answer.headers.get("etag") or "", encoding="utf-8")
            with part.open("r+b" if first else "wb") as stream:
                stream.seek(first)
                while block := answer.read(_BLOCK_BYTES):
                    stream.write(block)
                stream.truncate()
        if part.stat().st_size != size:
            raise self._unavailable("it was cut off")
        tag.unlink()
        part.rename(target)

    @contextmanager
    def _opened(self, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        url = self.url
        for _ in range(_REDIRECTS + 1):
            with self._asked(url, headers) as answer:
                location = answer.headers.get("location")
                if answer.status not in _MOVED or not location:
                    yield self._judged(answer)
                    return
            url = urljoin(url, location)
        raise InputError(STORAGE_DENIED, f"{self.field}: it redirects more than {_REDIRECTS} times")

    @contextmanager
    def _asked(self, url: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None:
            raise InputError(STORAGE_DENIED, f"{self.field}: it leads to what is no plain https address")
        connection = _Pinned(parts.hostname, parts.port or 443, addresses=self._addresses(parts.hostname, parts.port))
        connection.tls = trusting(self.ca_bundle)
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        with closing(connection):
            connection.request(
                "GET", path, headers={"user-agent": "trainplane", "accept-encoding": "identity", **headers}
            )
            with connection.getresponse() as answer:
                yield answer

    def _addresses(self, host: str, port: int | None) -> list[str]:
        """What the name resolves to, each of which is allowed."""
        literal = literal_address(host)
        found = socket.getaddrinfo(str(literal or host), port or 443, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if not self.rules.permits_name(host):
            for address in addresses:
                if not self.rules.permits_address(ip_address(address.partition("%")[0])):
                    raise InputError(
                        STORAGE_DENIED,
                        f"{self.field}: it leads to an address that is not public; the agent's settings allowed_hosts "
                        "and allowed_networks can allow it",
                    )
        return addresses

    def _judged(self, answer: http.client.HTTPResponse) -> http.client.HTTPResponse:
        if answer.status in {200, 206, _RANGE_NOT_SATISFIABLE}:
            return answer
        if answer.status in {404, 410}:
            raise InputError(self.missing, f"{self.field}: nothing is there (the server answered {answer.status})")
        if answer.status in {401, 403}:
            raise InputError(STORAGE_DENIED, f"{self.field}: the server refuses it (it answered {answer.status})")
        raise self._unavailable(f"the server answered {answer.status}")

    def _length(self, answer: http.client.HTTPResponse) -> int:
        length = answer.headers.get("content-length")
        if length is None or not length.isdigit():
            raise InputError(CONFIG_INVALID, f"{self.field}: the server does not tell the size (Content-Length)")
        return int(length)

    def _unavailable(self, why: str) -> InputError:
        return InputError(STORAGE_UNAVAILABLE, f"{self.field}: it does not come: {why}")


def trusting(ca_bundle: str | None) -> ssl.SSLContext:
    """TLS that trusts the system's authorities, and those of a PEM file."""
    context = ssl.create_default_context()
    if ca_bundle is not None:
        context.load_verify_locations(cafile=ca_bundle)
    return context


class _Pinned(http.client.HTTPConnection):
    """A connection by TLS to one of the given addresses, whatever the name resolves to meanwhile."""

    tls: ssl.SSLContext

    def __init__(self, host: str, port: int, *, addresses: list[str]) -> None:
        super().__init__(host, port, timeout=_SILENCE_SECONDS)
        self._addresses = addresses

    def connect(self) -> None:
        """Connect to the first address that answers."""
        error: OSError = OSError("the name has no address")
        for address in self._addresses:
            try:
                plain = socket.create_connection((address, self.port), _SILENCE_SECONDS)
            except OSError as failed:
                error = failed
                continue
            try:
                self.sock = self.tls.wrap_socket(plain, server_hostname=self.host)
            except OSError:
                plain.close()
                raise
            return
        raise error
