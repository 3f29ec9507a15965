"""Attempts, what is kept per (attempt, node), and the devices that they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, text, tuple_, update

from controlplane.domain.attempt import Attempt, AttemptNode, AttemptState
from controlplane.domain.node import AttemptRef
from controlplane.store import tables
from controlplane.store.bound import Bound, Bulk, Lockable

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import BindParameter

    from controlplane.store.bound import AnyRow

_a = tables.attempts.c
_n = tables.attempt_nodes.c
_d = tables.device_charges.c

#: In the order of `Attempt`'s fields.
COLUMNS = (
    _a.job_uid,
    _a.number,
    _a.node,
    _a.devices,
    _a.cpus,
    _a.memory_bytes,
    _a.state,
    _a.assign_time_us,
    _a.claim_time_us,
    _a.start_time_us,
    _a.end_time_us,
    _a.reason,
    _a.manifest_digest,
)
_NODE_COLUMNS = (_n.job_uid, _n.number, _n.node, _n.claim_nonce, _n.applied)

_INSERT = tables.attempts.insert()
_INSERT_NODE = tables.attempt_nodes.insert()
_CHARGE = tables.device_charges.insert()
_DISCHARGE = tables.device_charges.delete().where(
    _d.job_uid == bindparam("of_uid"), _d.number == bindparam("of_number")
)
_ONE = Lockable.of(select(*COLUMNS).where(_a.job_uid == bindparam("uid"), _a.number == bindparam("number")))
_REFS: BindParameter[Any] = bindparam("refs", expanding=True)
_SOME = Lockable.of(select(*COLUMNS).where(tuple_(_a.job_uid, _a.number).in_(_REFS)).order_by(_a.job_uid, _a.number))
_CHARGED = select(*COLUMNS).where(text("state <> 'ENDED'")).order_by(_a.node, _a.job_uid, _a.number)
_CHARGED_ON = _CHARGED.where(_a.node == bindparam("node"))
_SAVE = (
    update(tables.attempts)
    .where(_a.job_uid == bindparam("of_uid"), _a.number == bindparam("of_number"))
    .values({column: bindparam(column.name) for column in COLUMNS[6:]})
)
_NODES = Lockable.of(
    select(*_NODE_COLUMNS)
    .where(tuple_(_n.job_uid, _n.number).in_(_REFS), _n.node == bindparam("node"))
    .order_by(_n.job_uid, _n.number)
)
_THIS_NODE = (
    _n.job_uid == bindparam("of_uid"),
    _n.number == bindparam("of_number"),
    _n.node == bindparam("of_node"),
)
_SET_NONCE = update(tables.attempt_nodes).where(*_THIS_NODE).values(claim_nonce=bindparam("nonce"))
_ADVANCE = Bulk(
    update(tables.attempt_nodes).where(*_THIS_NODE, _n.applied == bindparam("was")).values(applied=bindparam("to")),
    ["of_uid", "of_number", "of_node", "was", "to"],
)


def attempt_of(row: AnyRow) -> Attempt:
    """The attempt in a row of `COLUMNS`."""
    uid, number, node, devices, cpus, memory_bytes, state, *others = row
    held = tuple(json.loads(devices))
    return Attempt(uid, number, node, held, cpus, memory_bytes, AttemptState(state), *others)


def _changing(attempt: Attempt) -> dict[str, Any]:
    return {
        "state": attempt.state.value,
        "assign_time_us": attempt.assign_time_us,
        "claim_time_us": attempt.claim_time_us,
        "start_time_us": attempt.start_time_us,
        "end_time_us": attempt.end_time_us,
        "reason": attempt.reason,
        "manifest_digest": attempt.manifest_digest,
    }


class Attempts(Bound):
    """`attempts`, `attempt_nodes` and `device_charges` in one transaction."""

    def insert_attempt(self, attempt: Attempt) -> None:
        """Stores an attempt, its (attempt, node) row, and that its devices are taken.

        Raises:
            sqlalchemy.exc.IntegrityError: the number is taken, or a device is: a bug of the caller's.
        """
        names = {"job_uid": attempt.job_uid, "number": attempt.number, "node": attempt.node}
        self._run(
            _INSERT,
            names
            | {"devices": json.dumps(attempt.devices), "cpus": attempt.cpus, "memory_bytes": attempt.memory_bytes}
            | _changing(attempt),
        )
        self._run(_INSERT_NODE, names | {"claim_nonce": b"", "applied": 0})
        if attempt.devices and attempt.charged:
            self._run(_CHARGE, [names | {"device": device} for device in attempt.devices])

    def attempt(self, job_uid: str, number: int) -> Attempt | None:
        """The attempt, locked."""
        row = self._first(_ONE, {"uid": job_uid, "number": number})
        return None if row is None else attempt_of(row)

    def attempts(self, refs: Collection[AttemptRef]) -> dict[AttemptRef, Attempt]:
        """Those of them that exist, locked in order."""
        if not refs:
            return {}
        found = self._all(_SOME, {"refs": [(ref.job_uid, ref.number) for ref in refs]})
        return {AttemptRef(row[0], row[1]): attempt_of(row) for row in found}

    def charged_attempts(self) -> list[Attempt]:
        """Every attempt whose devices count as taken (any state but ENDED), of all nodes."""
        return [attempt_of(row) for row in self._all(_CHARGED)]

    def charged_on(self, node: str) -> list[Attempt]:
        """The same of one node."""
        return [attempt_of(row) for row in self._all(_CHARGED_ON, {"node": node})]

    def save_attempt(self, attempt: Attempt) -> None:
        """Writes everything of it but its names and devices; ENDED frees the devices."""
        of = {"of_uid": attempt.job_uid, "of_number": attempt.number}
        self._run(_SAVE, of | _changing(attempt))
        if not attempt.charged:
            self._run(_DISCHARGE, of)

    def attempt_nodes(self, refs: Collection[AttemptRef], node: str) -> dict[AttemptRef, AttemptNode]:
        """Nonces and watermarks of these attempts on this node, locked."""
        if not refs:
            return {}
        found = self._all(_NODES, {"refs": [(ref.job_uid, ref.number) for ref in refs], "node": node})
        return {AttemptRef(row[0], row[1]): AttemptNode(*row) for row in found}

    def set_nonce(self, job_uid: str, number: int, *, node: str, nonce: bytes) -> None:
        """Records who claimed."""
        self._run(_SET_NONCE, {"of_uid": job_uid, "of_number": number, "of_node": node, "nonce": nonce})

    def advance_watermark(self, job_uid: str, number: int, *, node: str, applied: int, to: int) -> bool:
        """Moves `applied` to `to` if it still is `applied`; False: someone else did, stop."""
        return _ADVANCE.run_one(self._connection, (job_uid, number, node, applied, to)) == 1
