"""What was sent with a job and what was made of it: its sealed secrets, and what it really runs with."""

from __future__ import annotations

from sqlalchemy import bindparam, exists, select, text, update

from controlplane.domain.delivery import WEBHOOK, EndpointState
from controlplane.engine.ports import Sealed
from controlplane.store import tables
from controlplane.store.bound import Bound

_j = tables.jobs.c
_s = tables.job_specs.c
_e = tables.endpoints.c
_r = tables.pending_retries.c

_SEALED = select(_s.uid, _s.sealed_secrets, _s.webhook).where(_s.uid == bindparam("uid"))
_SEAL = update(tables.job_specs).where(_s.uid == bindparam("of_uid")).values(sealed_secrets=bindparam("sealed"))
_HOLD = update(tables.jobs).where(_j.uid == bindparam("of_uid")).values(secrets_held=bindparam("held"))
_OLD = (
    select(_j.uid)
    .where(
        text("secrets_held AND end_time_us > 0"),
        _j.end_time_us < bindparam("before_us"),
        ~_j.endpoint_owed,
        # A status stream gets no secret, and may be tried for much longer.
        ~exists().where(_e.job_uid == _j.uid, _e.kind == WEBHOOK, _e.state == EndpointState.ACTIVE.value),
        ~exists().where(_r.job_uid == _j.uid),
    )
    .order_by(_j.end_time_us)
    .limit(bindparam("limit"))
)
_EFFECTIVE = select(_s.effective_spec).where(_s.uid == bindparam("uid"))
_SET_EFFECTIVE = (
    update(tables.job_specs).where(_s.uid == bindparam("of_uid")).values(effective_spec=bindparam("effective"))
)
_SET_COMMIT = (
    update(tables.job_specs).where(_s.uid == bindparam("of_uid")).values(base_model_commit=bindparam("commit"))
)


class Specs(Bound):
    """`job_specs` in one transaction, but for what `Jobs` inserts and `Records` shows."""

    def sealed_secrets(self, uid: str) -> Sealed | None:
        """What the job's secrets are sealed in; `sealed` is empty where there are none (any more)."""
        row = self._first(_SEALED, {"uid": uid})
        return None if row is None else Sealed(*row)

    def set_sealed_secrets(self, uid: str, sealed: bytes) -> None:
        """Overwrites the job's sealed secrets; empty erases them.

        SQLite zeroes what it frees (`secure_delete`); PostgreSQL until its next vacuum, and both until their
        write-ahead logs are reused, still hold the sealed form: what protects it there is the master key, which no
        database holds.
        """
        self._run(_HOLD, {"of_uid": uid, "held": bool(sealed)})
        self._run(_SEAL, {"of_uid": uid, "sealed": sealed})

    def old_secrets(self, *, ended_before_us: int, limit: int) -> list[str]:
        """Uids of jobs that ended before, whose webhooks are settled, and that still have sealed secrets."""
        return [row[0] for row in self._all(_OLD, {"before_us": ended_before_us, "limit": limit})]

    def effective_spec(self, uid: str) -> str:
        """What `set_effective_spec` stored; empty before."""
        row = self._first(_EFFECTIVE, {"uid": uid})
        return "" if row is None else str(row[0])

    def set_effective_spec(self, uid: str, effective: str) -> None:
        """Fixes what the job really runs with, at its first placement."""
        self._run(_SET_EFFECTIVE, {"of_uid": uid, "effective": effective})

    def set_base_model_commit(self, uid: str, commit: str) -> None:
        """Records which commit of its base model the job's newest attempt trains."""
        self._run(_SET_COMMIT, {"of_uid": uid, "commit": commit})
