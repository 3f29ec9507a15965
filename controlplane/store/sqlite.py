"""The store on one SQLite file: a connection that writes by group commit, another that reads, nobody else.

Both are used on the event loop's thread. Reads see every acknowledged write: a commit is answered when it is made.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import StaticPool

from controlplane.engine.ports import StoreUnavailable
from controlplane.store import schema
from controlplane.store.faults import refusals
from controlplane.store.group_commit import CommitOn, GroupCommit
from controlplane.store.lockfile import FileLock
from controlplane.store.transaction import SqlTransaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from controlplane.engine.ports import Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """How SQLite is run."""

    commit_on: CommitOn = "auto"
    """Where commits wait for the disk; `auto` follows their mean duration."""
    busy_timeout: timedelta = timedelta(seconds=1)
    """How long a write waits, blocking the loop, for another program's lock (a shell's) before it is refused."""
    checkpoint_pages: int = 4000
    """WAL pages (4 KiB each) after which a commit also moves them into the database file."""
    cache_bytes: int = 16 << 20
    """Pages that each of the two connections keeps in memory, at most."""


class SqliteStore:
    """The port's `Store` on one SQLite file."""

    def __init__(
        self, writer: Connection, reader: Connection, *, commit_on: CommitOn, opened: contextlib.ExitStack
    ) -> None:
        self._commits = GroupCommit(writer, commit_on=commit_on)
        self._reader = reader
        self._transaction = SqlTransaction(reader, locking=False)
        self._opened = opened

    @classmethod
    async def open(cls, path: Path, *, options: SqliteOptions) -> SqliteStore:
        """Locks the file, makes or migrates it, and opens it.

        Raises:
            StoreHeld: another process has it open.
            SchemaUnknown: a newer version migrated it.
            StoreUnavailable: it cannot be opened, or is no database.
        """
        with refusals(), contextlib.ExitStack() as opened:
            _make(path)
            opened.callback(FileLock.taken(path.with_name(path.name + ".lock")).release)
            writer = opened.enter_context(_connected(path, options, begin="BEGIN IMMEDIATE"))
            with writer.begin():
                schema.upgrade(writer)
            reader = opened.enter_context(_connected(path, options, begin="BEGIN"))
            with reader.begin():
                reader.exec_driver_sql("PRAGMA query_only = ON")
            return cls(writer, reader, commit_on=options.commit_on, opened=opened.pop_all())

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` and commits it with what else is queued; see the port."""
        return await self._commits.run(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a snapshot, at once."""
        with refusals(), self._reader.begin():
            return work(self._transaction)

    async def ping(self) -> None:
        """Raises StoreUnavailable unless a trivial read works."""
        with refusals(), self._reader.begin():
            self._reader.execute(_PING)

    async def close(self) -> None:
        """Answers what is queued, then closes the file and its lock."""
        await self._commits.close()
        self._opened.close()


def _make(path: Path) -> None:
    """Makes an empty file for our own eyes; SQLite gives its other files the same mode.

    Raises:
        StoreUnavailable: the directory cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be opened: {error.strerror}") from error


_PING = text("SELECT count(*) FROM installation")


@contextlib.contextmanager
def _connected(path: Path, options: SqliteOptions, *, begin: str) -> Iterator[Connection]:
    """A connection of its own engine, whose transactions open with `begin`."""
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False, "cached_statements": 512}
    )

    def prepare(driver: sqlite3.Connection, _record: object) -> None:
        driver.isolation_level = None  # the driver begins nothing by itself: SQLAlchemy's "begin" below does
        for pragma in (
            f"busy_timeout = {int(options.busy_timeout.total_seconds() * 1000)}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "secure_delete = ON",
            "temp_store = MEMORY",
            f"wal_autocheckpoint = {options.checkpoint_pages}",
            f"cache_size = -{options.cache_bytes >> 10}",
        ):
            driver.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
