"""The checkpoints that trainers keep."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import bindparam, delete, select

from controlplane.domain.checkpoint import Checkpoint
from controlplane.store import tables
from controlplane.store.bound import Bound, Upsert

_c = tables.checkpoints.c

_SAVE = Upsert(tables.checkpoints, replacing=["node", "size_bytes", "manifest_digest", "create_time_us"])
_FORGET = delete(tables.checkpoints).where(_c.job_uid == bindparam("uid"), _c.step < bindparam("oldest"))
_OF_JOB = (
    select(_c.job_uid, _c.attempt, _c.step, _c.node, _c.size_bytes, _c.manifest_digest, _c.create_time_us)
    .where(_c.job_uid == bindparam("uid"))
    .order_by(_c.attempt.desc(), _c.step.desc())
    .limit(bindparam("limit"))
)


class Checkpoints(Bound):
    """`checkpoints` in one transaction."""

    def save_checkpoint(self, checkpoint: Checkpoint, *, oldest_step: int) -> None:
        """Inserts or replaces it, and forgets those of the job, of any attempt, of steps before `oldest_step`."""
        self._run(_SAVE.on(self._connection), asdict(checkpoint))
        self._run(_FORGET, {"uid": checkpoint.job_uid, "oldest": oldest_step})

    def checkpoints(self, job_uid: str, *, limit: int) -> list[Checkpoint]:
        """The newest attempt's first, then by step, the greatest first."""
        return [Checkpoint(*row) for row in self._all(_OF_JOB, {"uid": job_uid, "limit": limit})]
