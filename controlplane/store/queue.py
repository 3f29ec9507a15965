"""The queue: QUEUED jobs in the order in which the dispatcher serves them, and why each of them waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, func, literal_column, or_, select, text, update

from controlplane.domain.job import WaitingJob
from controlplane.store import tables
from controlplane.store.bound import Bound
from controlplane.store.jobs import COLUMNS, job_of, requirement_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import BindParameter

    from controlplane.store.bound import AnyRow

_j = tables.jobs.c
_s = tables.job_specs.c

_WIDTH = len(COLUMNS)
# The state stands in the text, here and below: SQLite takes a partial index only where the query says its condition.
_QUEUED = text("jobs.state = 'QUEUED'")
_WAITING = (
    select(*COLUMNS, _s.requirement, _j.priority, _j.pending_reason, _s.sent)
    .join_from(tables.jobs, tables.job_specs, _s.uid == _j.uid)
    .where(_QUEUED)
    .order_by(_j.priority.desc(), _j.uid)
    .limit(bindparam("limit"))
)
_PRIORITY: BindParameter[int] = bindparam("after_priority")
_UID: BindParameter[str] = bindparam("after_uid")
_WAITING_AFTER = _WAITING.where(
    _j.priority <= _PRIORITY,  # said apart, because it bounds the index's range
    or_(_j.priority < _PRIORITY, and_(_j.priority == _PRIORITY, _j.uid > _UID)),
)
_UNSEEN = _WAITING.where(text("jobs.pending_reason = ''"))
# Two counts, because each of them is one range of the index.
_BEFORE = select(
    select(func.count()).select_from(tables.jobs).where(_QUEUED, _j.priority > _PRIORITY).scalar_subquery()
    + select(func.count())
    .select_from(tables.jobs)
    .where(_QUEUED, _j.priority == _PRIORITY, _j.uid < _UID)
    .scalar_subquery()
)
_SET_PENDING = (
    update(tables.jobs)
    .where(_j.uid == bindparam("of_uid"), _j.state == literal_column("'QUEUED'"))
    .values(pending_reason=bindparam("why"))
)


def _waiting_of(row: AnyRow) -> WaitingJob:
    requirement, *others = row[_WIDTH:]
    return WaitingJob(job_of(row), requirement_of(requirement), *others)


class Queue(Bound):
    """Waiting jobs in one transaction."""

    def waiting_jobs(self, *, limit: int, after: tuple[int, str] | None = None) -> list[WaitingJob]:
        """QUEUED jobs, highest priority first, then oldest; `after` = (priority, uid) of the page before's last."""
        bounds: dict[str, Any] = {"limit": limit}
        if after is None:
            found: Sequence[AnyRow] = self._all(_WAITING, bounds)
        else:
            found = self._all(_WAITING_AFTER, bounds | {"after_priority": after[0], "after_uid": after[1]})
        return [_waiting_of(row) for row in found]

    def unseen_jobs(self, *, limit: int) -> list[WaitingJob]:
        """The same, only those that the dispatcher has not looked at: without a pending reason."""
        return [_waiting_of(row) for row in self._all(_UNSEEN, {"limit": limit})]

    def queue_position(self, uid: str, *, priority: int) -> int:
        """1 + the number of QUEUED jobs before it; reads as many index entries."""
        row = self._first(_BEFORE, {"after_priority": priority, "after_uid": uid})
        return 1 if row is None else 1 + int(row[0])

    def set_pending(self, reasons: Mapping[str, str]) -> None:
        """Writes uid -> pending reason, where still QUEUED."""
        if reasons:
            self._run(_SET_PENDING, [{"of_uid": uid, "why": reasons[uid]} for uid in sorted(reasons)])
