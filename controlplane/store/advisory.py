"""PostgreSQL's lock of a database: a session-level advisory lock on a connection of its own.

The server lets go when the connection ends, so the lock is never stale. When the server is restarted, everybody's is
gone, and whoever takes it first goes on; hence it is looked at before every write.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from controlplane.engine.ports import StoreUnavailable
from controlplane.store.faults import StoreHeld

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

#: "trainpl" in ASCII; nothing else in the database may take it.
_KEY = 0x747261696E706C
_TRY = text("SELECT pg_try_advisory_lock(:key)")
_HOLDER = text(
    "SELECT pid, application_name, client_addr::text FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND (classid::bigint << 32 | objid::bigint) = :key"
    " AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def application_name() -> str:
    """How this process is called in `pg_stat_activity`, and so in the refusal that another one reads."""
    return f"trainplane-controlplane pid {os.getpid()} on {socket.gethostname()}"[:63]


class AdvisoryLock:
    """The lock, taken anew where its connection was lost."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Uses an engine without a pool: a connection that went back to one would keep the lock."""
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._driver: asyncpg.Connection | None = None
        self._taking = asyncio.Lock()
        self._closed = False

    async def ensure(self) -> None:
        """Costs nothing while the lock is held.

        Raises:
            StoreUnavailable: another control plane took the lock when this one had lost it; or this one was closed.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._held():
            return
        async with self._taking:
            if self._held():
                return
            try:
                await self.take()
            except StoreHeld as error:
                raise StoreUnavailable(str(error)) from error

    async def take(self) -> None:
        """Takes the lock at once.

        Raises:
            StoreHeld: another session has it; names it.
        """
        await self.release()
        self._connection = connection = await self._engine.connect()
        if not (await connection.execute(_TRY, {"key": _KEY})).scalar_one():
            holder = (await connection.execute(_HOLDER, {"key": _KEY})).first()
            await self.release()
            who = "another session" if holder is None else f"{holder[1]} at {holder[2]} (server process {holder[0]})"
            raise StoreHeld(f"the database is in use by {who}")
        self._driver = (await connection.get_raw_connection()).driver_connection

    def refuse(self) -> None:
        """From now on `ensure` refuses: the store is being closed."""
        self._closed = True

    async def release(self) -> None:
        """Closes the connection, and with it lets go."""
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError, OSError, asyncpg.InterfaceError):  # it was lost: as good
                await connection.close()

    def _held(self) -> bool:
        return self._driver is not None and not self._driver.is_closed()
