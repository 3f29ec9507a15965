"""What callers ask about jobs, and cancelling: each a short transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from controlplane.domain import news as n
from controlplane.domain import spec
from controlplane.domain.attempt import AttemptState
from controlplane.domain.errors import JobNotFound
from controlplane.domain.job import State

if TYPE_CHECKING:
    from controlplane.domain.artifact import Artifact, Log
    from controlplane.domain.attempt import Attempt
    from controlplane.domain.event import StoredEvent
    from controlplane.domain.job import JobRecord
    from controlplane.domain.spec import Rules
    from controlplane.engine.changes import Changes, Recorder
    from controlplane.engine.ports import BlobStore, JobFilter, Store, Transaction

_READ_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with what is computed on reading."""

    record: JobRecord
    sent: dict[str, Any]
    effective: dict[str, Any]
    queue_position: int


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where reading logs goes on."""

    attempt: int = 0
    rank: int = 0
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LogPage:
    """Whole lines of one rank's log, and where the next page begins; None: nothing will follow."""

    lines: list[tuple[int, int, str]]
    """(attempt, rank, text)"""
    following: LogPosition | None


class Jobs:
    """Reads jobs, and cancels them."""

    def __init__(self, store: Store, *, recorder: Recorder, blobs: BlobStore, rules: Rules) -> None:
        self._store = store
        self._recorder = recorder
        self._blobs = blobs
        self._rules = rules

    def view(
        self,
        record: JobRecord,
        *,
        effective: str = "",
        queue_position: int = 0,
    ) -> JobView:
        """Adds the effective spec: as fixed at the first placement, or as the defaults are now."""
        sent = json.loads(record.sent)
        filled = (
            json.loads(effective) if effective else spec.effective(sent, job_id=record.job.job_id, rules=self._rules)
        )
        return JobView(record, sent, filled, queue_position)

    async def get(self, job_id: str, *, project: str) -> JobView:
        """The job as SQL has it.

        Raises:
            JobNotFound: there is none in this project.
        """

        def work(tx: Transaction) -> tuple[JobRecord, str, int]:
            record = tx.record(project, job_id)
            if record is None:
                raise JobNotFound(job_id)
            uid = record.job.uid
            waits = record.job.state is State.QUEUED
            return record, tx.effective_spec(uid), tx.queue_position(uid, priority=record.priority) if waits else 0

        record, effective, position = await self._store.read(work)
        return self.view(record, effective=effective, queue_position=position)

    async def page(self, chosen: JobFilter, *, limit: int) -> list[JobView]:
        """Newest first."""
        return [self.view(record) for record in await self._store.read(lambda tx: tx.records(chosen, limit=limit))]

    async def uid(self, job_id: str, *, project: str) -> str:
        """The job's unique id.

        Raises:
            JobNotFound: there is none in this project.
        """
        return (await self.get(job_id, project=project)).record.job.uid

    async def events(self, job_id: str, *, project: str, after: int, limit: int) -> list[StoredEvent]:
        """The job's events after a number, in order."""

        def work(tx: Transaction) -> list[StoredEvent]:
            record = tx.record(project, job_id)
            if record is None:
                raise JobNotFound(job_id)
            return tx.events_after(record.job.uid, after, limit=limit)

        return await self._store.read(work)

    async def artifacts(self, job_id: str, *, project: str) -> list[Artifact]:
        """What the job published; empty before SUCCEEDED."""

        def work(tx: Transaction) -> list[Artifact]:
            record = tx.record(project, job_id)
            if record is None:
                raise JobNotFound(job_id)
            return tx.artifacts(record.job.uid)

        return await self._store.read(work)

    async def cancel(self, job_id: str, *, project: str) -> JobView:
        """Cancels: at once where nothing runs, else CANCELLING until the node says that no process is left. Repeatable.

        Raises:
            JobNotFound: there is none in this project.
            MoveNotAllowed: it is SUCCEEDED or FAILED, or its output is being published.
        """

        def work(changes: Changes) -> None:
            job = changes.tx.find_job(project, job_id)
            if job is None:
                raise JobNotFound(job_id)
            moved = changes.apply(job, n.Cancel())
            if moved.state is State.CANCELLING:
                attempt = changes.tx.attempt(job.uid, job.attempt)
                if attempt is not None and attempt.state is AttemptState.ASSIGNED:
                    # Never claimed, and by this write never will be: there is no process to wait for.
                    _end_unclaimed(changes, attempt)
                    changes.apply(moved, n.Stopped(job.attempt, "CANCELLED"))
                elif attempt is not None:
                    changes.told.wake.add(attempt.node)

        await self._recorder.write(work)
        return await self.get(job_id, project=project)

    async def log_page(self, job_id: str, *, project: str, start: LogPosition, limit: int) -> LogPage:
        """Up to `limit` whole lines from a position on, one rank's log after the other's."""

        def work(tx: Transaction) -> tuple[JobRecord, list[Log]]:
            record = tx.record(project, job_id)
            if record is None:
                raise JobNotFound(job_id)
            return record, tx.logs(record.job.uid)

        record, logs = await self._store.read(work)
        over = record.job.terminal
        position = start
        rest = [log for log in logs if (log.attempt, log.rank) >= (start.attempt, start.rank)]
        for index, log in enumerate(rest):
            newest = index == len(rest) - 1
            begins = start.offset_bytes if (log.attempt, log.rank) == (start.attempt, start.rank) else 0
            lines, end = await self._lines(log, begins, limit=limit, whole=over or not newest)
            position = LogPosition(log.attempt, log.rank, end)
            if lines:
                more = not over or not newest or end < log.size_bytes
                return LogPage([(log.attempt, log.rank, line) for line in lines], position if more else None)
        return LogPage([], None if over else position)

    async def _lines(self, log: Log, begins: int, *, limit: int, whole: bool) -> tuple[list[str], int]:
        """Lines from an offset, and where they end. The last one without an end counts only if the log is `whole`."""
        size = min(log.size_bytes - begins, _READ_BYTES)
        if size <= 0:
            return [], begins
        key = log_key(log.job_uid, log.attempt, log.rank)
        data = await self._blobs.get(key, offset_bytes=begins, size_bytes=size)
        ended = data.split(b"\n")
        rest = ended.pop()
        lines = ended[:limit]
        end = begins + sum(len(line) + 1 for line in lines)
        read_all = begins + len(data) >= log.size_bytes
        endless = not ended and len(data) == _READ_BYTES  # one line larger than a read: told in pieces
        if rest and len(lines) == len(ended) < limit and ((whole and read_all) or endless):
            lines.append(rest)
            end += len(rest)
        return [line.rstrip(b"\r").decode("utf-8", "replace") for line in lines], end


def log_key(job_uid: str, attempt: int, rank: int) -> str:
    """Where one rank's log lies in the blob store."""
    return f"logs/{job_uid}/attempt-{attempt}/rank-{rank}.log"


def _end_unclaimed(changes: Changes, attempt: Attempt) -> None:
    changes.tx.save_attempt(replace(attempt, state=AttemptState.ENDED, end_time_us=changes.now_us, reason="CANCELLED"))
    changes.told.capacity = True
