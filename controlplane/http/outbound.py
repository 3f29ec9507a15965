"""Posting to URLs that users gave us, without becoming their way into our network.

A name is resolved once; every address must be allowed; the connection goes to those very addresses (so a second answer
of the resolver changes nothing). No redirects, no proxy environment, bounded in time and in what is read. TLS verifies
the name. An operator may say where a name is reached (`connect_to`): that is allowed whatever it is, and TLS still
verifies the name of the URL.
"""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from controlplane.engine.ports import Answer
from trainplane.addresses import literal_address

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from trainplane.addresses import OutboundRules

_DRAINED_BYTES = 64 * 1024
#: Names looked up at once. In threads of their own: a name server that hangs must not hold up log files' threads.
_LOOKUPS = 32
#: An answer is good for so long; each use judges its addresses anew, and connects to those.
_FRESH_SECONDS = 1.0


class Blocked(OSError):  # noqa: N818 - it says what happened
    """The name resolves to an address that we may not call."""


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[str]:
    infos = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


class GuardedResolver(AbstractResolver):
    """Answers only addresses that the rules allow; one bad one refuses the name."""

    def __init__(
        self,
        rules: OutboundRules,
        *,
        lookup: Callable[[str, int, socket.AddressFamily], list[str]] = _addresses,
        fresh_seconds: float = _FRESH_SECONDS,
    ) -> None:
        self._rules = rules
        self._fresh_seconds = fresh_seconds
        self._lookup = lookup
        self._recent: dict[tuple[str, int, socket.AddressFamily], tuple[float, asyncio.Future[list[str]]]] = {}
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolves once, and judges every address.

        Raises:
            Blocked: one of them is not allowed.
            OSError: the name does not resolve.
        """
        instead = self._rules.instead_of(host, port)
        reached_host, reached_port = instead or (host, port)
        addresses = await self._looked_up(reached_host, reached_port, family)
        if instead is None and not self._rules.permits_name(host):
            for address in addresses:
                if not self._rules.permits_address(ip_address(address.partition("%")[0])):
                    raise Blocked(f"{host} resolves to an address that is not public and not allowed by setting")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=reached_port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def _looked_up(self, host: str, port: int, family: socket.AddressFamily) -> list[str]:
        """One lookup for all who ask within a moment, failures too: a name that is down is asked for by many jobs."""
        loop = asyncio.get_running_loop()
        key, now = (host, port, family), loop.time()
        until, answer = self._recent.get(key, (0.0, None))
        if answer is None or until < now:
            self._recent = {known: entry for known, entry in self._recent.items() if entry[0] >= now}
            answer = loop.run_in_executor(self._threads, self._lookup, host, port, family)
            answer.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # seen, if nobody waits any more
            self._recent[key] = (now + self._fresh_seconds, answer)
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Begins no more lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedClient:
    """Implements `ports.Outbound`."""

    def __init__(
        self, rules: OutboundRules, *, tls: ssl.SSLContext | None = None, resolver: GuardedResolver | None = None
    ) -> None:
        self._rules = rules
        self._resolver = resolver or GuardedResolver(rules)
        self._session = aiohttp.ClientSession(
            # No bound of its own: whoever waited for a place here would have its deadline run out untried.
            connector=aiohttp.TCPConnector(resolver=self._resolver, limit=0, use_dns_cache=False, ssl=tls or True),
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": "trainplane"},
        )

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str], deadline: timedelta) -> Answer:
        """Posts once; never raises for what the other side does."""
        return await self._timed("POST", url, body=body, headers=headers, deadline=deadline)

    async def reach(self, url: str, *, deadline: timedelta) -> Answer:
        """Asks for nothing, and tells whether somebody answers there."""
        return await self._timed("HEAD", url, body=b"", headers={}, deadline=deadline)

    async def _timed(
        self, method: str, url: str, *, body: bytes, headers: Mapping[str, str], deadline: timedelta
    ) -> Answer:
        started = time.monotonic()
        status, retry_after, detail, reached = await self._try(
            method, url, body=body, headers=headers, deadline=deadline
        )
        return Answer(status, retry_after, detail, timedelta(seconds=time.monotonic() - started), reached)

    async def _try(
        self, method: str, url: str, *, body: bytes, headers: Mapping[str, str], deadline: timedelta
    ) -> tuple[int, timedelta | None, str, bool]:
        try:
            target = URL(url)  # once: what is judged is what is connected to, whatever another parser makes of it
            # A literal address needs no resolver, so aiohttp would not ask ours.
            literal = literal_address(target.host or "")
            if literal is not None and not self._rules.permits_address(literal):
                return 0, None, "its address is not public and not allowed by setting", False
            async with (
                asyncio.timeout(deadline.total_seconds()),
                self._session.request(
                    method, target, data=body or None, headers=dict(headers), allow_redirects=False
                ) as answer,
            ):
                await answer.content.read(_DRAINED_BYTES)
                return answer.status, _retry_after(answer.headers.get("retry-after")), _words(answer.status), True
        except TimeoutError:
            return 0, None, f"no answer within {deadline.total_seconds():g} s", True
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return 0, None, _unanswered(error), not isinstance(error, (aiohttp.ClientConnectorError, Blocked))

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()
        await self._resolver.close()


def _words(status: int) -> str:
    if 200 <= status < 300:
        return ""
    return f"answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")


def _unanswered(error: Exception) -> str:
    """Why there is no answer, in words that repeat nothing of the request."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        distrust = getattr(error.certificate_error, "verify_message", "")  # OpenSSL's words
        return f"no trust in its certificate: {distrust}; `ca_bundle` names further CAs"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return str(cause) if isinstance(cause, Blocked) else f"no connection: {cause.strerror or cause}"
    if isinstance(error, Blocked):
        return str(error)
    return f"no answer: {type(error).__name__}"


def _retry_after(header: str | None) -> timedelta | None:
    """Seconds or a date (RFC 9110); None where there is none or it is neither."""
    if not header:
        return None
    if header.strip().isdigit():
        return timedelta(seconds=min(int(header.strip()[:9]), 10**8))
    try:
        return max(parsedate_to_datetime(header) - datetime.now(UTC), timedelta())
    except (TypeError, ValueError):
        return None
