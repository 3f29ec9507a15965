"""What callers ask about jobs, and cancelling: each a short transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controlplane.domain import news as n
from controlplane.domain import spec
from controlplane.domain.attempt import AttemptState
from controlplane.domain.errors import JobNotFound
from controlplane.domain.job import State
from controlplane.engine import gangs

if TYPE_CHECKING:
    from controlplane.domain.artifact import Artifact
    from controlplane.domain.checkpoint import Checkpoint
    from controlplane.domain.event import StoredEvent
    from controlplane.domain.job import JobRecord
    from controlplane.domain.spec import Rules
    from controlplane.engine.changes import Changes, Recorder
    from controlplane.engine.ports import JobFilter, Store, Transaction


#: In one answer: some hundred bytes each.
_MOST_CHECKPOINTS = 1000


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with what is computed on reading."""

    record: JobRecord
    sent: dict[str, Any]
    effective: dict[str, Any]
    queue_position: int


class Jobs:
    """Reads jobs, and cancels them."""

    def __init__(self, store: Store, *, recorder: Recorder, rules: Rules) -> None:
        self._store = store
        self._recorder = recorder
        self._rules = rules

    def view(self, record: JobRecord, *, queue_position: int = 0) -> JobView:
        """Adds the effective spec: as fixed at the first placement, or as the defaults are now."""
        sent = json.loads(record.sent)
        if record.effective:
            filled = json.loads(record.effective)
        else:
            filled = spec.effective(sent, job_id=record.job.job_id, rules=self._rules)
        return JobView(record, sent, filled, queue_position)

    async def get(self, job_id: str, *, project: str) -> JobView:
        """The job as SQL has it.

        Raises:
            JobNotFound: there is none in this project.
        """

        def work(tx: Transaction) -> tuple[JobRecord, int]:
            record = tx.record(project, job_id)
            if record is None:
                raise JobNotFound(job_id)
            waits = record.job.state is State.QUEUED
            return record, tx.queue_position(record.job.uid, priority=record.priority) if waits else 0

        record, position = await self._store.read(work)
        return self.view(record, queue_position=position)

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

    async def checkpoints(self, job_id: str, *, project: str) -> list[Checkpoint]:
        """The newest checkpoints that the job's trainers keep."""

        def work(tx: Transaction) -> list[Checkpoint]:
            record = tx.record(project, job_id)
            if record is None:
                raise JobNotFound(job_id)
            return tx.checkpoints(record.job.uid, limit=_MOST_CHECKPOINTS)

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
            waits = job.state is State.RECOVERING and gangs.leaves_processes(changes.tx, job)
            moved = changes.apply(job, n.Cancel(waits=waits))
            if moved.state is State.CANCELLING:
                attempt = changes.tx.attempt(job.uid, job.attempt)
                if attempt is not None and attempt.state is AttemptState.ASSIGNED:
                    # Never claimed, and by this write never will be: there is no process to wait for.
                    gangs.end_unclaimed(changes, attempt, reason="CANCELLED")
                    changes.apply(moved, n.Stopped(job.attempt, "CANCELLED"))
                elif attempt is not None:
                    changes.told.wake.update((attempt.node, *attempt.others))

        await self._recorder.write(work)
        return await self.get(job_id, project=project)
