"""Jobs as answers show them: one with all that belongs to it, or a page of them, newest first."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, literal_column, select, union_all

from controlplane.domain.job import JobRecord, State
from controlplane.store import tables
from controlplane.store.attempts import COLUMNS as ATTEMPT_COLUMNS
from controlplane.store.attempts import attempt_of
from controlplane.store.bound import Bound
from controlplane.store.jobs import COLUMNS, job_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.attempt import Attempt
    from controlplane.engine.ports import JobFilter
    from controlplane.store.bound import AnyRow, AnySelect

_j = tables.jobs.c
_s = tables.job_specs.c
_l = tables.job_labels.c
_a = tables.attempts.c

_RECORDS = select(
    *COLUMNS,
    _j.priority,
    _j.create_time_us,
    _s.sent,
    _s.labels,
    _s.warnings,
    _s.secret_macs,
    _s.output_uri,
    _j.pending_reason,
    _s.base_model_commit,
    _s.retry_of,
    _s.effective_spec,
).join_from(tables.jobs, tables.job_specs, _s.uid == _j.uid)
_BY_NAME = _RECORDS.where(_j.project == bindparam("project"), _j.job_id == bindparam("job_id"))
_BY_UIDS = _RECORDS.where(_j.uid.in_(bindparam("uids", expanding=True))).order_by(_j.uid.desc())
_ATTEMPTS = (
    select(*ATTEMPT_COLUMNS).where(_a.job_uid.in_(bindparam("uids", expanding=True))).order_by(_a.job_uid, _a.number)
)
_WIDTH = len(COLUMNS)
#: After every uid, in the bytes' order that `tables.Key` compares by.
_NEWEST = "~"


@lru_cache(maxsize=256)
def _newest_of(states: tuple[State, ...]) -> AnySelect:
    """The uids of a page: one range of the index per state, merged, so that no state is read through for another."""
    ranges = [
        select(_j.uid)
        .where(
            _j.project == bindparam("project"),
            _j.state == literal_column(f"'{state.value}'"),
            _j.uid < bindparam("before"),
        )
        .order_by(_j.uid.desc())
        .limit(bindparam("limit"))
        .subquery()
        for state in states
    ]
    merged = union_all(*(select(found.c.uid) for found in ranges)).subquery()
    return select(merged.c.uid).order_by(merged.c.uid.desc()).limit(bindparam("limit"))


def _newest_labelled(states: tuple[State, ...], labels: Sequence[tuple[str, str]]) -> AnySelect:
    """The uids of a page, along the first label's range; the other conditions are looked up for each job of it."""
    (key, value), *others = labels
    query = select(_l.job_uid).where(
        _l.project == bindparam("project"), _l.key == key, _l.value == value, _l.job_uid < bindparam("before")
    )
    if states:
        query = query.join(tables.jobs, _j.uid == _l.job_uid).where(_j.state.in_([state.value for state in states]))
    for key, value in others:
        other = tables.job_labels.alias()
        query = query.where(
            select(other.c.job_uid)
            .where(
                other.c.project == bindparam("project"),
                other.c.key == key,
                other.c.value == value,
                other.c.job_uid == _l.job_uid,
            )
            .exists()
        )
    return query.order_by(_l.job_uid.desc()).limit(bindparam("limit"))


def _record_of(row: AnyRow, attempts: Sequence[Attempt]) -> JobRecord:
    priority, created_us, sent, labels, warnings, macs, output_uri, pending, commit, retry_of, effective = row[_WIDTH:]
    return JobRecord(
        job=job_of(row),
        priority=priority,
        create_time_us=created_us,
        sent=sent,
        labels=json.loads(labels),
        warnings=warnings,
        secret_macs=macs,
        output_uri=output_uri,
        pending_reason=pending,
        base_model_commit=commit,
        retry_of=retry_of,
        effective=effective,
        attempts=tuple(attempts),
    )


class Records(Bound):
    """What is shown of jobs, in one transaction."""

    def record(self, project: str, job_id: str) -> JobRecord | None:
        """All of a job, with its attempts, not locked."""
        row = self._first(_BY_NAME, {"project": project, "job_id": job_id})
        return None if row is None else self._with_attempts([row])[0]

    def records(self, chosen: JobFilter, *, limit: int) -> list[JobRecord]:
        """Newest first, with their attempts."""
        states = tuple(sorted(set(chosen.states)))
        if chosen.labels:
            query = _newest_labelled(states, sorted(chosen.labels.items()))
        else:
            query = _newest_of(states or tuple(sorted(State)))
        bounds = {"project": chosen.project, "before": chosen.before_uid or _NEWEST, "limit": limit}
        uids = [row[0] for row in self._all(query, bounds)]
        return self._with_attempts(self._all(_BY_UIDS, {"uids": uids})) if uids else []

    def _with_attempts(self, rows: Sequence[AnyRow]) -> list[JobRecord]:
        attempts: dict[str, list[Attempt]] = {row[0]: [] for row in rows}
        for row in self._all(_ATTEMPTS, {"uids": list(attempts)}):
            attempts[row[0]].append(attempt_of(row))
        return [_record_of(row, attempts[row[0]]) for row in rows]
