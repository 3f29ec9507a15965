"""The part of a job that news change: `jobs`, and the row that a submit adds to it in `job_specs`."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, bindparam, case, exists, literal_column, select, text, update

from controlplane.domain.job import Job, Progress, Requirement, State
from controlplane.store import tables
from controlplane.store.bound import Bound, Bulk, Lockable, Upsert

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from controlplane.domain.job import NewJob
    from controlplane.store.bound import AnyRow

_NOBODY: Mapping[str, str] = MappingProxyType({})
_t = tables.jobs.c
_s = tables.job_specs.c

#: In the order of `Job`'s fields, so that a row's first values are a job.
COLUMNS = (
    _t.uid,
    _t.project,
    _t.job_id,
    _t.state,
    _t.phase,
    _t.reason,
    _t.message,
    _t.attempt,
    _t.failures,
    _t.losses,
    _t.max_attempts,
    _t.granted,
    _t.pause_wanted,
    _t.not_before_us,
    _t.last_sequence,
    _t.progress,
    _t.start_time_us,
    _t.update_time_us,
    _t.end_time_us,
)
_WIDTH = len(COLUMNS)
_STATE = 3
_CHANGING = COLUMNS[_STATE:]
_PROGRESS = 15
_STATES = {state.value: state for state in State}
# `dataclasses.asdict` copies deeply: 10 us more.
_PROGRESS_FIELDS = [field.name for field in fields(Progress)]
_REQUIREMENT_FIELDS = [field.name for field in fields(Requirement) if field.name != "labels"]
_requirement_values = attrgetter(*_REQUIREMENT_FIELDS)
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

#: What a submit adds to `COLUMNS`.
_ADDED = (
    _t.published_sequence,
    _t.priority,
    _t.create_time_us,
    _t.pending_reason,
    _t.endpoint_owed,
    _t.secrets_held,
    _t.output_place,
)
_SPEC_COLUMNS = (
    _s.uid,
    _s.sent,
    _s.requirement,
    _s.labels,
    _s.warnings,
    _s.secret_macs,
    _s.webhook,
    _s.output_uri,
    _s.base_model_commit,
    _s.retry_of,
    _s.effective_spec,
    _s.sealed_secrets,
)

_BY_UID = Lockable.of(select(*COLUMNS).where(_t.uid == bindparam("uid")))
_BY_UIDS = Lockable.of(select(*COLUMNS).where(_t.uid.in_(bindparam("uids", expanding=True))).order_by(_t.uid))
_BY_NAME = Lockable.of(select(*COLUMNS).where(_t.project == bindparam("project"), _t.job_id == bindparam("job_id")))
_RECOVERING = Lockable.of(
    select(*COLUMNS).where(text("state = 'RECOVERING'"), _t.not_before_us <= bindparam("due_us")).order_by(_t.uid)
)
_INSERT = Bulk(Upsert(tables.jobs), [column.name for column in (*COLUMNS, *_ADDED)])
_INSERT_SPECS = Bulk(tables.job_specs.insert(), [column.name for column in _SPEC_COLUMNS])
_INSERT_LABELS = tables.job_labels.insert()
# A job that an INSERT just passed over has its specs already, whoever holds the name.
_STORED = select(_t.uid).where(_t.uid.in_(bindparam("uids", expanding=True)), ~exists().where(_s.uid == _t.uid))
_STILL_QUEUED = bindparam("state", type_=Text) == literal_column("'QUEUED'")
_SAVE = Bulk(
    update(tables.jobs)
    .where(_t.uid == bindparam("of_uid"))
    .values(
        {column: bindparam(column.name, type_=column.type) for column in _CHANGING}
        | {_t.pending_reason: case((_STILL_QUEUED, _t.pending_reason), else_=literal_column("''"))}
    ),
    ["of_uid", *(column.name for column in _CHANGING)],
)


def job_of(row: AnyRow) -> Job:
    """The job in the first columns of a row of `COLUMNS`."""
    values: list[Any] = list(row[:_WIDTH])
    values[_STATE] = _STATES[values[_STATE]]
    if values[_PROGRESS] is not None:
        values[_PROGRESS] = Progress(**json.loads(values[_PROGRESS]))
    return Job(*values)


def _changing(job: Job) -> tuple[Any, ...]:
    """The values of `_CHANGING`."""
    return (
        job.state.value,
        job.phase,
        job.reason,
        job.message,
        job.attempt,
        job.failures,
        job.losses,
        job.max_attempts,
        job.granted,
        job.pause_wanted,
        job.not_before_us,
        job.last_sequence,
        None if job.progress is None else _progress_json(job.progress),
        job.start_time_us,
        job.update_time_us,
        job.end_time_us,
    )


def _progress_json(progress: Progress) -> str:
    return _encode({name: getattr(progress, name) for name in _PROGRESS_FIELDS})


@lru_cache(maxsize=256)
def requirement_of(stored: str) -> Requirement:
    """Reads what `_requirement_json` wrote. Many jobs have the same: they share it, so it is not to be changed."""
    return Requirement(**json.loads(stored))


@lru_cache(maxsize=256)
def _requirement_json(values: tuple[Any, ...], labels: tuple[tuple[str, str], ...]) -> str:
    return _encode(dict(zip(_REQUIREMENT_FIELDS, values, strict=True)) | {"labels": dict(labels)})


def _job_values(new: NewJob, pending_reason: str) -> tuple[Any, ...]:
    """The values of `COLUMNS` and `_ADDED`."""
    job = new.job
    head = (job.uid, job.project, job.job_id)
    # `endpoint_owed`: a job's endpoints are stored with it.
    added = (0, new.priority, new.create_time_us, pending_reason, False, bool(new.sealed_secrets))
    return (*head, *_changing(job), *added, new.output_place)


def _spec_values(new: NewJob) -> tuple[Any, ...]:
    """The values of `_SPEC_COLUMNS`."""
    return (
        new.job.uid,
        new.sent,
        _requirement_json(_requirement_values(new.requirement), tuple(new.requirement.labels.items())),
        _encode(dict(new.labels)) if new.labels else "{}",
        new.warnings,
        new.secret_macs,
        new.webhook,
        new.output_uri,
        "",
        "",
        "",
        new.sealed_secrets,
    )


class Jobs(Bound):
    """`jobs` in one transaction."""

    def insert_jobs(self, jobs: Sequence[NewJob], *, pending: Mapping[str, str] = _NOBODY) -> frozenset[str]:
        """Stores jobs whose (project, job_id) is free; answers the uids that were stored.

        Args:
            jobs: new ones, QUEUED.
            pending: uid -> pending reason, of those whose is known already.
        """
        if not jobs:
            return frozenset()
        # By name: two batches that share names wait for each other in one order, and never deadlock.
        by_name = sorted(jobs, key=lambda new: (new.job.project, new.job.job_id))
        inserted = _INSERT.run(self._connection, [_job_values(new, pending.get(new.job.uid, "")) for new in by_name])
        uids = [new.job.uid for new in jobs]
        stored = frozenset(uids if inserted == len(jobs) else self._run(_STORED, {"uids": uids}).scalars())
        fresh = [new for new in jobs if new.job.uid in stored]
        if fresh:
            _INSERT_SPECS.run(self._connection, [_spec_values(new) for new in fresh])
        labels = [
            {"project": new.job.project, "key": key, "value": value, "job_uid": new.job.uid}
            for new in fresh
            for key, value in new.labels.items()
        ]
        if labels:
            self._run(_INSERT_LABELS, labels)
        return stored

    def job(self, uid: str) -> Job | None:
        """The job, locked."""
        row = self._first(_BY_UID, {"uid": uid})
        return None if row is None else job_of(row)

    def jobs(self, uids: Collection[str]) -> dict[str, Job]:
        """The jobs that exist, locked in the order of their uids."""
        if not uids:
            return {}
        return {row[0]: job_of(row) for row in self._all(_BY_UIDS, {"uids": list(uids)})}

    def find_job(self, project: str, job_id: str) -> Job | None:
        """The job of that name, locked."""
        row = self._first(_BY_NAME, {"project": project, "job_id": job_id})
        return None if row is None else job_of(row)

    def save_jobs(self, jobs: Sequence[Job]) -> None:
        """Writes every field of `Job` but its names; a job that leaves QUEUED loses its pending reason."""
        if jobs:
            _SAVE.run(self._connection, [(job.uid, *_changing(job)) for job in jobs])

    def recovering_jobs(self, *, due_us: int) -> list[Job]:
        """RECOVERING jobs whose `not_before_us` has passed, locked."""
        return [job_of(row) for row in self._all(_RECOVERING, {"due_us": due_us})]
