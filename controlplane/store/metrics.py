"""Chunks of dense series, some hundred steps a row."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, func, or_, select

from controlplane.domain.metrics import MetricChunk
from controlplane.store import tables
from controlplane.store.bound import Bound, Bulk, Upsert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import BindParameter

_c = tables.metric_chunks.c

_COLUMNS = (_c.job_uid, _c.attempt, _c.sequence, _c.first_step, _c.last_step, _c.points, _c.series)
_INSERT = Bulk(Upsert(tables.metric_chunks), [column.name for column in _COLUMNS])
_FIRST_STEPS = (
    select(_c.attempt, func.min(_c.first_step))
    .where(_c.job_uid == bindparam("uid"))
    .group_by(_c.attempt)
    .order_by(_c.attempt)
)
_ATTEMPT: BindParameter[int] = bindparam("after_attempt")
_AFTER = (
    select(*_COLUMNS)
    .where(
        _c.job_uid == bindparam("uid"),
        _c.attempt >= _ATTEMPT,  # said apart, because it bounds the index's range
        or_(_c.attempt > _ATTEMPT, and_(_c.attempt == _ATTEMPT, _c.sequence > bindparam("after_sequence"))),
    )
    .order_by(_c.attempt, _c.sequence)
    .limit(bindparam("limit"))
)


class Metrics(Bound):
    """`metric_chunks` in one transaction."""

    def insert_metric_chunks(self, chunks: Sequence[MetricChunk]) -> None:
        """Stores them; repeats change nothing."""
        if chunks:
            _INSERT.run(self._connection, list(map(astuple, chunks)))

    def first_measured_steps(self, job_uid: str) -> dict[int, int]:
        """The first step of each attempt that measured something."""
        return {row[0]: row[1] for row in self._all(_FIRST_STEPS, {"uid": job_uid})}

    def metric_chunks(self, job_uid: str, *, after: tuple[int, int], limit: int) -> list[MetricChunk]:
        """By attempt and sequence, those that follow (attempt, sequence)."""
        bounds = {"uid": job_uid, "after_attempt": after[0], "after_sequence": after[1], "limit": limit}
        return [MetricChunk(*row) for row in self._all(_AFTER, bounds)]
