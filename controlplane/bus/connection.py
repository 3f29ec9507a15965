"""One connection to NATS for the life of a process, which reconnects for ever.

The client library gives up after 60 tries and takes minutes to notice a dead peer unless told otherwise, and says only
in a callback that the server refused something: all of that is set here.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import nats.errors
import structlog
from nats.aio.client import Client, RawCredentials

from controlplane.engine.ports import BusUnavailable
from trainplane.wire import closing, subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_log = structlog.get_logger()

CONNECT_SECONDS = 10.0
PING_SECONDS = 10
MISSED_PINGS = 2
RECONNECT_WAIT_SECONDS = 0.5
#: What may wait for a flush or, while the connection is away, for the next one.
PENDING_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where NATS is, and who we are there."""

    url: str
    credentials: str = field(repr=False)
    """The text of a `.creds` file: a secret."""
    name: str = "trainplane control plane"
    connect_seconds: float = CONNECT_SECONDS
    """How long the first connection may take."""


class Connection:
    """The connection; see `connected`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.closed = asyncio.Event()
        """It is over for good: the server refused us (credentials expired or revoked), or we closed it."""
        self.back = asyncio.Event()
        """It was made again at least once."""
        self.violations = 0
        """How often the server refused a subject: always a mistake of ours."""
        self._reconnected: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Timeout] = set()

    def on_reconnect(self, call: Callable[[], None]) -> None:
        """Has `call` called after each reconnection: what lived in the server's memory may be gone."""
        self._reconnected.append(call)

    def require(self) -> Client:
        """The client, if it is connected now: what is sent while it is not would wait in memory, and may go out late.

        Raises:
            BusUnavailable: it is not.
        """
        if not self.client.is_connected:
            raise BusUnavailable("not connected to NATS")
        return self.client

    @asynccontextmanager
    async def answer_within(self, seconds: float) -> AsyncIterator[None]:
        """Bounds a wait for an answer, which ends at once when the connection is lost: the answer went with it.

        Raises:
            TimeoutError: no answer.
        """
        async with asyncio.timeout(seconds) as waiting:
            self._waiting.add(waiting)
            try:
                yield
            finally:
                self._waiting.discard(waiting)

    async def _note_error(self, error: Exception) -> None:
        if "permissions violation" in str(error):
            self.violations += 1
            _log.error("nats_permission_violation", error=str(error))
        elif isinstance(error, nats.errors.SlowConsumerError):
            _log.warning("nats_requests_dropped", subject=error.subject, reason="more came than can be answered")
        else:
            _log.warning("nats_error", error=repr(error))

    async def _note_lost(self) -> None:
        _log.warning("nats_disconnected")
        for waiting in self._waiting:
            waiting.reschedule(asyncio.get_running_loop().time())

    async def _note_back(self) -> None:
        _log.info("nats_reconnected")
        self.back.set()
        for call in self._reconnected:
            call()

    async def _note_closed(self) -> None:
        self.closed.set()


@asynccontextmanager
async def connected(address: NatsAddress) -> AsyncIterator[Connection]:
    """Connects, and closes at the end; in between it reconnects for ever.

    Raises:
        BusUnavailable: no first connection within `connect_seconds`; the cause says why.
    """
    client = Client()
    connection = Connection(client)
    try:
        await _connect(client, connection, address)
        _log.info("nats_connected", server=client.connected_url.netloc if client.connected_url else "")
        yield connection
    finally:
        await closing.close(client)


async def _connect(client: Client, connection: Connection, address: NatsAddress) -> None:
    try:
        async with asyncio.timeout(address.connect_seconds):
            await client.connect(
                address.url,
                name=address.name,
                user_credentials=RawCredentials(address.credentials),
                inbox_prefix=subjects.CONTROLPLANE_INBOX,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # it only sleeps so long
                ping_interval=PING_SECONDS,
                max_outstanding_pings=MISSED_PINGS,
                pending_size=PENDING_BYTES,
                error_cb=connection._note_error,  # noqa: SLF001 - this function is the class' other half
                disconnected_cb=connection._note_lost,  # noqa: SLF001
                reconnected_cb=connection._note_back,  # noqa: SLF001
                closed_cb=connection._note_closed,  # noqa: SLF001
            )
            if not client.is_connected:  # it takes one that is closed at once for made, and goes on trying
                await connection.back.wait()
    except (TimeoutError, nats.errors.Error, OSError) as error:
        raise BusUnavailable(
            f"no connection to NATS at {address.url.rpartition('@')[2]}: {client.last_error!r}"
        ) from error
