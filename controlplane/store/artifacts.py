"""What succeeded jobs published, and how much of each log is kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from controlplane.domain.artifact import Artifact, Log
from controlplane.store import tables
from controlplane.store.bound import Bound, Upsert

if TYPE_CHECKING:
    from collections.abc import Sequence

_a = tables.artifacts.c
_l = tables.logs.c

_INSERT = Upsert(tables.artifacts)
_OF_JOB = (
    select(_a.job_uid, _a.path, _a.uri, _a.size_bytes, _a.sha256)
    .where(_a.job_uid == bindparam("uid"))
    .order_by(_a.path)
)
_LOGS = (
    select(_l.job_uid, _l.attempt, _l.rank, _l.size_bytes)
    .where(_l.job_uid == bindparam("uid"))
    .order_by(_l.attempt, _l.rank)
)
_LOG = _LOGS.where(_l.attempt == bindparam("attempt"), _l.rank == bindparam("rank"))
_SAVE_LOG = Upsert(tables.logs, replacing=["size_bytes"])


class Artifacts(Bound):
    """`artifacts` and `logs` in one transaction."""

    def insert_artifacts(self, artifacts: Sequence[Artifact]) -> None:
        """Stores them; repeats change nothing."""
        if artifacts:
            self._run(_INSERT.on(self._connection), [asdict(artifact) for artifact in artifacts])

    def artifacts(self, job_uid: str) -> list[Artifact]:
        """By path."""
        return [Artifact(*row) for row in self._all(_OF_JOB, {"uid": job_uid})]

    def log(self, job_uid: str, *, attempt: int, rank: int) -> Log | None:
        """One log's size."""
        row = self._first(_LOG, {"uid": job_uid, "attempt": attempt, "rank": rank})
        return None if row is None else Log(*row)

    def save_log(self, log: Log) -> None:
        """Inserts or replaces."""
        self._run(_SAVE_LOG.on(self._connection), asdict(log))

    def logs(self, job_uid: str) -> list[Log]:
        """By attempt and rank."""
        return [Log(*row) for row in self._all(_LOGS, {"uid": job_uid})]
