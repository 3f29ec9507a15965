"""Reading trainers' logs, page by page or live: every rank's, each in order, an attempt's before the next one's.

    position: attempt, offset in each rank's log ──► lines from there ──► the position after them
                                                 └─► none: the next attempt, or wait for a hint, or the end

What is followed is what is stored: agents send new bytes once a second, and all that is left before an attempt ends
(docs/adr/0015). So a reader needs no node to be there, and the end of the job is the end of its log.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from controlplane.domain.errors import JobNotFound
from controlplane.engine.signals import Hints, within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

    from controlplane.domain.artifact import Log
    from controlplane.engine.ports import BlobStore, Store, Transaction

KEEP_ALIVE_SECONDS = 15.0
LINES_AT_ONCE = 1_000
READ_BYTES = 512 * 1024
"""Of one log at a time; a longer line is told in pieces."""
_FULL_BYTES = 64 * 1024
"""A page that has so many takes no further rank in."""
_POSITION = re.compile(r"([1-9][0-9]{0,8})((?:\.[0-9]{1,5}-[0-9]{1,15}){0,1024})")


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where reading goes on: an attempt, and how far each rank's log was read."""

    attempt: int = 0
    """0: from the beginning."""
    offsets: Mapping[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.attempt}" + "".join(f".{rank}-{offset}" for rank, offset in sorted(self.offsets.items()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`; the empty text is the beginning.

        Raises:
            ValueError: it is no position.
        """
        if text in {"", "0"}:
            return cls()
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError("not a position in a log")
        pairs = (part.split("-") for part in match[2].split(".")[1:])
        return cls(int(match[1]), {int(rank): int(offset) for rank, offset in pairs})


@dataclass(frozen=True, slots=True)
class Line:
    """One line of one rank."""

    attempt: int
    rank: int
    text: str
    end_bytes: int
    """Where the next one begins."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines of one attempt, and where the next page begins; None: nothing will follow."""

    lines: Sequence[Line]
    following: LogPosition | None
    begins: LogPosition = field(default_factory=LogPosition)
    """Where the first line began, in its attempt."""
    drained: bool = False
    """Nothing more can be there before the next hint."""

    def numbered(self) -> Iterator[tuple[Line, LogPosition]]:
        """Each line, with where to go on after it."""
        offsets = dict(self.begins.offsets)
        for line in self.lines:
            offsets[line.rank] = line.end_bytes
            yield line, LogPosition(line.attempt, dict(offsets))


def log_key(job_uid: str, attempt: int, rank: int) -> str:
    """Where one rank's log lies in the blob store."""
    return f"logs/{job_uid}/attempt-{attempt}/rank-{rank}.log"


class LogReader:
    """Reads what `Logs` keeps."""

    def __init__(
        self, store: Store, *, blobs: BlobStore, hints: Hints, keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._hints = hints
        self._keep_alive_seconds = keep_alive_seconds
        self._reads: dict[tuple[str, str], asyncio.Future[LogPage | None]] = {}
        """By job and position; None: the reader went away."""

    async def page(self, job_id: str, *, project: str, start: LogPosition, limit: int) -> LogPage:
        """Up to `limit` whole lines from a position on.

        Raises:
            JobNotFound: there is none in this project.
        """
        return await self._page(await self._uid(job_id, project), start, limit)

    async def follow(self, job_id: str, *, project: str, start: LogPosition) -> AsyncGenerator[LogPage, None]:
        """Yields pages from a position on, then new lines as they are stored; one without lines is a keep-alive.

        Where no line is kept yet, a keep-alive comes at once: until something is sent, HTTP has not even headers.

        Ends when the job has ended and every line was yielded. Close it when you leave it early.

        Raises:
            JobNotFound: there is none in this project.
            StoreUnavailable: SQL is away; resume from the last position.
        """
        uid = await self._uid(job_id, project)
        position: LogPosition | None = start
        greeted = False
        while position is not None:
            with self._hints.expected(uid) as hint:  # before reading, so that nothing falls between
                page = await self._shared(uid, position)
                position = page.following
                if page.lines or (position is not None and not greeted):
                    yield page
                    greeted = True
                    if page.lines and not page.drained:
                        continue
                if position is not None and not await within(hint, self._keep_alive_seconds):
                    yield LogPage([], position)

    async def _shared(self, uid: str, position: LogPosition) -> LogPage:
        """The next page; all who ask for it at the same moment, as after a hint, share one read."""
        key = (uid, str(position))
        while True:
            reading = self._reads.get(key)
            if reading is None:
                return await self._read(key, uid, position)
            page = await asyncio.shield(reading)
            if page is not None:
                return page

    async def _read(self, key: tuple[str, str], uid: str, position: LogPosition) -> LogPage:
        reading = self._reads[key] = asyncio.get_running_loop().create_future()
        try:
            page = await self._page(uid, position, LINES_AT_ONCE)
        except BaseException as error:
            if isinstance(error, Exception):
                reading.set_exception(error)
                reading.exception()  # seen, also where nobody shares the read
            else:
                reading.set_result(None)  # this reader was cancelled: one of the others reads
            raise
        else:
            reading.set_result(page)
        finally:
            del self._reads[key]
        return page

    async def _uid(self, job_id: str, project: str) -> str:
        job = await self._store.read(lambda tx: tx.find_job(project, job_id))
        if job is None:
            raise JobNotFound(job_id)
        return job.uid

    async def _page(self, uid: str, start: LogPosition, limit: int) -> LogPage:
        def load(tx: Transaction) -> tuple[bool, list[Log]]:
            job = tx.job(uid)
            return job is None or job.terminal, tx.logs(uid)

        over, logs = await self._store.read(load)
        position = start
        attempts = sorted({log.attempt for log in logs if log.attempt >= start.attempt})
        for attempt in attempts:
            begins_at = start if attempt == start.attempt else LogPosition(attempt)
            offsets = dict(begins_at.offsets)
            whole = over or attempt < attempts[-1]
            lines: list[Line] = []
            size = 0
            drained = not whole
            for log in logs:
                if log.attempt == attempt:
                    begins = offsets.get(log.rank, 0)
                    if len(lines) >= limit or size >= _FULL_BYTES:
                        drained = False
                        break
                    drained = drained and log.size_bytes - begins <= READ_BYTES
                    lines += await self._lines(log, begins, limit=limit - len(lines), whole=whole)
                    if lines and lines[-1].rank == log.rank:
                        offsets[log.rank] = lines[-1].end_bytes
                        size += offsets[log.rank] - begins
            position = LogPosition(attempt, offsets)
            if lines:
                return LogPage(lines, position, begins_at, drained=drained and len(lines) < limit)
        return LogPage([], None if over else position)

    async def _lines(self, log: Log, begins: int, *, limit: int, whole: bool) -> list[Line]:
        """Lines from an offset on. The last one without an end counts only if the log is `whole`."""
        size = min(log.size_bytes - begins, READ_BYTES)
        if size <= 0:
            return []
        key = log_key(log.job_uid, log.attempt, log.rank)
        data = await self._blobs.get(key, offset_bytes=begins, size_bytes=size)
        ended = data.split(b"\n")
        rest = ended.pop()
        lines: list[Line] = []
        end = begins
        for line in ended[:limit]:
            end += len(line) + 1
            lines.append(_line(log, line, end))
        read_all = begins + len(data) >= log.size_bytes
        endless = not ended and len(data) == READ_BYTES
        if rest and len(lines) == len(ended) < limit and ((whole and read_all) or endless):
            lines.append(_line(log, rest, end + len(rest)))
        return lines


def _line(log: Log, data: bytes, end_bytes: int) -> Line:
    return Line(log.attempt, log.rank, data.rstrip(b"\r").decode("utf-8", "replace"), end_bytes)
