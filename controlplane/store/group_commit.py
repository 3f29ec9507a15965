"""Group commit: works that are queued together share one transaction, and none of them sees another fail.

    write ─┐                       ┌─ SAVEPOINT, work 1 ─┐
    write ─┼─► queue ─► BEGIN ─────┼─ SAVEPOINT, work 2 ─┼─► COMMIT (fsync) ─► every caller answered
    write ─┘   (one loop turn)     └─ SAVEPOINT, work 3 ─┘

Statements take microseconds and never leave the event loop's thread: a writer thread would pay more in GIL hand-offs
than in SQL. Only the commit waits for a disk. Where that takes longer than `COMMIT_IN_PLACE` (a running mean: disks
change their minds), the commit alone, one C call without the GIL, goes to a thread, and works that arrive meanwhile
share the next one.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError

from controlplane.engine.ports import StoreUnavailable
from controlplane.store.faults import commit_failure, refusal
from controlplane.store.transaction import SqlTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from sqlalchemy import Connection

    from controlplane.engine.ports import Transaction

T = TypeVar("T")

#: A mean commit up to this long is made on the event loop, where it costs no thread's hand-off.
COMMIT_IN_PLACE = timedelta(milliseconds=1)
#: Works that share a commit, at most: the loop is not kept from others for longer than they take.
MAX_SHARED = 64
#: How much the newest commit's duration counts in the mean.
_NEWEST = 0.2
#: One commit in so many is made in place though it is slow, to see whether it still is.
_LOOK_AGAIN = 64

CommitOn = Literal["auto", "loop", "thread"]


@dataclass(slots=True)
class _Ticket(Generic[T]):
    """A work that waits for its commit; as a context, it keeps what the work raises for the caller."""

    work: Callable[[Transaction], T]
    answer: asyncio.Future[T]
    value: T | None = None
    error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return isinstance(error, Exception)

    def settle(self, failure: Exception | None) -> None:
        """Answers the caller, if it still waits."""
        if self.answer.done():
            return
        error = failure or self.error
        if error is None:
            self.answer.set_result(cast("T", self.value))
        else:
            self.answer.set_exception(error)


def _driver_of(connection: Connection) -> sqlite3.Connection:
    driver: object = connection.connection.dbapi_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"group commit is SQLite's, not {type(driver)}'s")
    return driver


def _refusal_behind(error: BaseException | None) -> StoreUnavailable | None:
    while error is not None:
        refused = refusal(error)
        if refused is not None:
            return refused
        error = error.__context__
    return None


class GroupCommit:
    """Runs works over one connection, on the event loop's thread."""

    def __init__(self, connection: Connection, *, commit_on: CommitOn) -> None:
        self._connection = connection
        self._driver = _driver_of(connection)
        self._transaction = SqlTransaction(connection, locking=True)
        self._commit_on = commit_on
        self._commit_seconds = 0.0
        self._commits = 0
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-commit")
        self._waiting: deque[_Ticket[Any]] = deque()
        self._busy = False
        """A round is scheduled, or its commit is on its way."""
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """Answers when what `work` wrote is on disk.

        A caller that is cancelled before its work began takes it back; after that, it may be stored.

        Raises:
            StoreUnavailable: nothing was stored.
            OutcomeUnknown: the disk failed during the commit.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        ticket: _Ticket[T] = _Ticket(work, self._loop.create_future())
        self._waiting.append(ticket)
        if not self._busy:
            self._schedule()
        return await ticket.answer

    async def close(self) -> None:
        """Refuses new works, and returns when those that were there are answered."""
        self._closed = True
        await self._idle.wait()
        self._thread.shutdown()

    def _schedule(self) -> None:
        self._busy = True
        self._idle.clear()
        self._loop.call_soon(self._round)

    def _round(self) -> None:
        """One transaction: its works, then its commit."""
        tickets = self._taken()
        try:
            self._connection.begin()
            self._work(tickets)
        except SQLAlchemyError as error:
            self._undo(tickets, refusal(error) or error)
        except StoreUnavailable as error:
            self._undo(tickets, error)
        else:
            if all(ticket.error for ticket in tickets):
                self._undo(tickets, None)
            else:
                self._commit(tickets)

    def _taken(self) -> list[_Ticket[Any]]:
        tickets: list[_Ticket[Any]] = []
        while self._waiting and len(tickets) < MAX_SHARED:
            ticket = self._waiting.popleft()
            if not ticket.answer.done():
                tickets.append(ticket)
        return tickets

    def _work(self, tickets: list[_Ticket[Any]]) -> None:
        """Runs the works; one that raises takes back what it wrote, and no more.

        Raises:
            StoreUnavailable: the database itself failed one of them, so none is stored.
        """
        alone = len(tickets) == 1  # needs no savepoint: if it raises, the transaction is undone
        for ticket in tickets:
            with ticket, nullcontext() if alone else self._savepoint():
                ticket.value = ticket.work(self._transaction)
            if ticket.error is None:
                continue
            # SQLite may have rolled all of it back by itself, as on a full disk; then the savepoint is gone, and the
            # error of going back to it hides the one that tells.
            refused = _refusal_behind(ticket.error)
            if refused is not None:
                raise refused from ticket.error
            if not self._driver.in_transaction:
                raise StoreUnavailable("the database gave the transaction up") from ticket.error

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        """On the driver itself: SQLAlchemy's `begin_nested` costs 90 us a work more (126 against 32)."""
        self._driver.execute("SAVEPOINT work")
        try:
            yield
        except BaseException:
            self._driver.execute("ROLLBACK TO work")
            self._driver.execute("RELEASE work")
            raise
        self._driver.execute("RELEASE work")

    def _commit(self, tickets: list[_Ticket[Any]]) -> None:
        if not self._in_place():
            committing = self._loop.run_in_executor(self._thread, self._driver.commit)
            committing.add_done_callback(lambda done: self._committed(tickets, done.exception()))
            return
        started = time.perf_counter()
        failure = None
        try:
            self._driver.commit()
        except sqlite3.Error as error:
            failure = error
        self._commit_seconds += _NEWEST * (time.perf_counter() - started - self._commit_seconds)
        self._committed(tickets, failure)

    def _in_place(self) -> bool:
        if self._commit_on != "auto":
            return self._commit_on == "loop"
        self._commits += 1
        # Durations are taken here only, where no wait for the GIL is in them; so now and then this looks again.
        return self._commit_seconds <= COMMIT_IN_PLACE.total_seconds() or self._commits % _LOOK_AGAIN == 0

    def _committed(self, tickets: list[_Ticket[Any]], failure: BaseException | None) -> None:
        if isinstance(failure, sqlite3.Error):
            self._undo(tickets, commit_failure(failure))
            return
        self._connection.commit()  # SQLAlchemy's own books: the driver has no transaction any more
        self._finish(tickets, None)

    def _undo(self, tickets: list[_Ticket[Any]], failure: Exception | None) -> None:
        self._connection.rollback()
        self._finish(tickets, failure)

    def _finish(self, tickets: list[_Ticket[Any]], failure: Exception | None) -> None:
        for ticket in tickets:
            ticket.settle(failure)
        if self._waiting:
            self._loop.call_soon(self._round)
        else:
            self._busy = False
            self._idle.set()
