"""The store on PostgreSQL, through SQLAlchemy's greenlet bridge: the functions that SQLite runs in place, unchanged.

Writes are READ COMMITTED with row locks, taken in the port's order; a read is one REPEATABLE READ snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from controlplane.store import schema
from controlplane.store.advisory import AdvisoryLock, application_name
from controlplane.store.faults import Conflict, commit_failure, unreachable
from controlplane.store.transaction import SqlTransaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from controlplane.engine.ports import Transaction

T = TypeVar("T")

_PING = text("SELECT count(*) FROM installation WHERE key = ''")


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """How PostgreSQL is used."""

    pool_size: int = 8
    """Connections, besides the one that holds the lock; more callers wait."""
    connect_timeout: timedelta = timedelta(seconds=5)
    """Also how long a caller waits for a connection of the pool."""
    statement_timeout: timedelta = timedelta(seconds=30)
    """When the server gives a statement up; 5 s later we do, should the server be gone."""
    tries: int = 5
    """How often a write runs that meets serialization failures or deadlocks."""


class PostgresStore:
    """The port's `Store` on a PostgreSQL database."""

    def __init__(self, url: URL, options: PostgresOptions) -> None:
        self._tries = options.tries
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._engine = create_async_engine(
            url,
            connect_args=_connect_args(options),
            pool_size=options.pool_size,
            max_overflow=0,
            pool_timeout=options.connect_timeout.total_seconds(),
            pool_pre_ping=True,
        )
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._lock = AdvisoryLock(
            create_async_engine(
                url, connect_args=_connect_args(options), poolclass=NullPool, isolation_level="AUTOCOMMIT"
            )
        )

    @classmethod
    async def open(cls, url: URL, *, options: PostgresOptions) -> PostgresStore:
        """Takes the lock, makes or migrates the schema.

        Raises:
            StoreHeld: another control plane has the lock.
            SchemaUnknown: a newer version migrated it.
            StoreUnavailable: the server cannot be reached, or refuses.
        """
        async with contextlib.AsyncExitStack() as undo:
            store = cls(url.set(drivername="postgresql+asyncpg"), options)
            undo.push_async_callback(store.close)
            with unreachable():
                await store._lock.take()
            async with store._connected(store._engine) as connection:
                await connection.run_sync(schema.upgrade)
                await connection.commit()
            undo.pop_all()
            return store

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a transaction of its own, again after a conflict; see the port."""
        tried = 0
        while True:
            try:
                return await self._write_once(work)
            except Conflict:
                tried += 1
                if tried == self._tries:
                    raise
            await asyncio.sleep(random.random() * 0.01 * 2**tried)  # noqa: S311 - spreads retries, keeps no secret

    async def _write_once(self, work: Callable[[Transaction], T]) -> T:
        with unreachable():
            await self._lock.ensure()
        async with self._connected(self._engine) as connection:
            value = await connection.run_sync(lambda sync: work(SqlTransaction(sync, locking=True)))
            try:
                await connection.commit()
            except (SQLAlchemyError, OSError) as error:
                raise commit_failure(error) from error
            return value

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a snapshot."""
        async with self._connected(self._snapshots) as connection:
            return await connection.run_sync(lambda sync: work(SqlTransaction(sync, locking=False)))

    async def ping(self) -> None:
        """Raises StoreUnavailable unless a trivial read works."""
        async with self._connected(self._snapshots) as connection:
            await connection.execute(_PING)

    async def close(self) -> None:
        """Waits for what runs and closes every connection; with the last of them the lock goes."""
        self._lock.refuse()
        await self._idle.wait()
        await self._engine.dispose()
        await self._lock.release()

    @contextlib.asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        self._running += 1
        self._idle.clear()
        try:
            with unreachable():
                async with engine.connect() as connection:
                    yield connection
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()


def _connect_args(options: PostgresOptions) -> dict[str, Any]:
    statement_seconds = options.statement_timeout.total_seconds()
    return {
        "timeout": options.connect_timeout.total_seconds(),
        "command_timeout": statement_seconds + 5,
        "prepared_statement_cache_size": 512,
        "server_settings": {
            "application_name": application_name(),
            "synchronous_commit": "on",
            "statement_timeout": f"{int(statement_seconds * 1000)}",
            "idle_in_transaction_session_timeout": f"{int(statement_seconds * 1000)}",
            "jit": "off",  # compiling costs these short statements more than it saves
        },
    }
