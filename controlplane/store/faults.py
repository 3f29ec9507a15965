"""What a database's errors mean to the engine. Everything else that SQL raises is a bug and comes out as it is."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Conflict(StoreUnavailable):
    """Other transactions got in the way; the same work may succeed now."""


class StoreHeld(Exception):  # noqa: N818 - it says what happened
    """Another control plane has this database open; the text names it."""


class SchemaUnknown(Exception):  # noqa: N818 - likewise
    """The database was migrated by a newer version; an older one must not write to it."""


#: sqlite.org/rescode.html: the machine, the disk or another process refuses, not the statement.
_SQLITE_REFUSALS = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
#: PostgreSQL's error classes: connection, resources, operator intervention, system; and a standby's refusal to write.
_POSTGRES_REFUSALS = ("08", "53", "57", "58", "25006")
#: Serialization failure, deadlock: run it again.
_POSTGRES_CONFLICTS = frozenset({"40001", "40P01"})


def refusal(error: BaseException) -> StoreUnavailable | None:
    """The database's refusal that this error is, if it is one."""
    if isinstance(error, PoolTimeout):
        return StoreUnavailable("the database does not answer: no connection became free")
    if not isinstance(error, (DBAPIError, sqlite3.Error)):
        return None
    state = _sqlstate(error)
    if state in _POSTGRES_CONFLICTS:
        return Conflict(f"the database is contended: {_words(error)}")
    refused = (
        (isinstance(error, DBAPIError) and error.connection_invalidated)
        or _sqlite_code(error) in _SQLITE_REFUSALS
        or state.startswith(_POSTGRES_REFUSALS)
    )
    return StoreUnavailable(f"the database refused: {_words(error)}") if refused else None


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raises what SQLAlchemy raises as the refusal that it is, where it is one."""
    try:
        yield
    except SQLAlchemyError as error:
        refused = refusal(error)
        if refused is None:
            raise
        raise refused from error


@contextlib.contextmanager
def unreachable() -> Iterator[None]:
    """The same for a server: what its sockets and its refusals to connect raise comes without SQLAlchemy's wrapping."""
    try:
        with refusals():
            yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(f"the database cannot be reached: {error or type(error).__name__}") from error


def commit_failure(error: Exception) -> Exception:
    """What callers of a commit that failed are told."""
    lost = isinstance(error, OSError) or (
        isinstance(error, DBAPIError) and (error.connection_invalidated or _sqlstate(error).startswith(("08", "57P")))
    )
    # An I/O error may come from the fsync, after the frames were written: a crash now could bring them back.
    if lost or _sqlite_code(error) == sqlite3.SQLITE_IOERR:
        return OutcomeUnknown(f"a commit was not answered: {_words(error)}")
    return refusal(error) or error


def _words(error: Exception) -> str:
    """The driver's words, which hold no values of rows; the statement that SQLAlchemy adds to them might."""
    return str(error.orig if isinstance(error, DBAPIError) else error)


def _sqlite_code(error: Exception) -> int | None:
    driver = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(driver, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF  # extended codes keep their kind in the low byte


def _sqlstate(error: Exception) -> str:
    driver = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(driver, "sqlstate", None) or "")
