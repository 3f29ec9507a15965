"""Attempts, what is kept per (attempt, node), and the devices that they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, Text, bindparam, literal_column, select, text, tuple_, union_all, update

from controlplane.domain.attempt import Attempt, AttemptNode, AttemptState
from controlplane.domain.node import AttemptRef
from controlplane.store import tables
from controlplane.store.bound import Bound, Bulk, Lockable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import BindParameter

    from controlplane.store.bound import AnyRow

_a = tables.attempts.c
_m = tables.attempt_members.c
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
    _a.others,
    _a.meeting,
    literal_column("0", Integer).label("place"),
)
_NONE = literal_column("''", Text)
#: The same of a gang's further nodes.
_MEMBER_COLUMNS = (
    _m.job_uid,
    _m.number,
    _m.node,
    _m.devices,
    _m.cpus,
    _m.memory_bytes,
    _m.state,
    _m.assign_time_us,
    _m.claim_time_us,
    _m.start_time_us,
    _m.end_time_us,
    _m.reason,
    _NONE,
    _NONE,
    _NONE,
    _m.place,
)
_NODE_COLUMNS = (_n.job_uid, _n.number, _n.node, _n.claim_nonce, _n.applied)

_INSERT = tables.attempts.insert()
_INSERT_MEMBER = tables.attempt_members.insert()
_INSERT_NODE = tables.attempt_nodes.insert()
_CHARGE = tables.device_charges.insert()
_DISCHARGE = tables.device_charges.delete().where(
    _d.job_uid == bindparam("of_uid"), _d.number == bindparam("of_number"), _d.node == bindparam("of_node")
)
_ONE = Lockable.of(select(*COLUMNS).where(_a.job_uid == bindparam("uid"), _a.number == bindparam("number")))
_REFS: BindParameter[Any] = bindparam("refs", expanding=True)
_SOME_ON = Lockable.of(
    select(*COLUMNS)
    .where(tuple_(_a.job_uid, _a.number).in_(_REFS), _a.node == bindparam("node"))
    .order_by(_a.job_uid, _a.number)
)
_MEMBERS = Lockable.of(
    select(*_MEMBER_COLUMNS).where(_m.job_uid == bindparam("uid"), _m.number == bindparam("number")).order_by(_m.place)
)
_MEMBERS_ON = Lockable.of(
    select(*_MEMBER_COLUMNS)
    .where(tuple_(_m.job_uid, _m.number).in_(_REFS), _m.node == bindparam("node"))
    .order_by(_m.job_uid, _m.number)
)
_FIRST_CHARGED = select(*COLUMNS).where(text("state <> 'ENDED'"))
_MEMBER_CHARGED = select(*_MEMBER_COLUMNS).where(text("state <> 'ENDED'"))
_CHARGED = union_all(_FIRST_CHARGED, _MEMBER_CHARGED)
_CHARGED_ON = union_all(
    _FIRST_CHARGED.where(_a.node == bindparam("node")), _MEMBER_CHARGED.where(_m.node == bindparam("node"))
)
_INCOMPLETE = (
    select(*COLUMNS)
    .where(
        text("state <> 'ENDED'"), text("state = 'ASSIGNED' AND others <> ''"), _a.assign_time_us < bindparam("before")
    )
    .order_by(_a.job_uid, _a.number)
)
_SAVE = (
    update(tables.attempts)
    .where(_a.job_uid == bindparam("of_uid"), _a.number == bindparam("of_number"))
    .values({column: bindparam(column.name) for column in (*COLUMNS[6:13], _a.meeting)})
)
_SAVE_MEMBER = (
    update(tables.attempt_members)
    .where(_m.job_uid == bindparam("of_uid"), _m.number == bindparam("of_number"), _m.node == bindparam("of_node"))
    .values({column: bindparam(column.name) for column in _MEMBER_COLUMNS[6:12]})
)
_CLAIMANTS = select(_n.node).where(
    _n.job_uid == bindparam("uid"), _n.number == bindparam("number"), _n.claim_nonce != b""
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
    uid, number, node, devices, cpus, memory_bytes, state, *changing, digest, others, meeting, index = row
    held, further = tuple(json.loads(devices)), tuple(json.loads(others)) if others else ()
    assigned_us, claimed_us, started_us, ended_us, reason = changing
    return Attempt(
        uid, number, node, held, cpus, memory_bytes, AttemptState(state), assigned_us, claimed_us, started_us, ended_us,
        reason, digest, further, meeting, index,
    )  # fmt: skip


def _by_node(rows: Sequence[AnyRow]) -> list[Attempt]:
    return [attempt_of(row) for row in sorted(rows, key=lambda row: (row[2], row[0], row[1]))]


def _changing(attempt: Attempt) -> dict[str, Any]:
    """What news change, of every node's row."""
    return {
        "state": attempt.state.value,
        "assign_time_us": attempt.assign_time_us,
        "claim_time_us": attempt.claim_time_us,
        "start_time_us": attempt.start_time_us,
        "end_time_us": attempt.end_time_us,
        "reason": attempt.reason,
    }


def _changing_first(attempt: Attempt) -> dict[str, Any]:
    return _changing(attempt) | {"manifest_digest": attempt.manifest_digest, "meeting": attempt.meeting}


class Attempts(Bound):
    """`attempts`, `attempt_members`, `attempt_nodes` and `device_charges` in one transaction."""

    def insert_attempt(self, attempt: Attempt) -> None:
        """Stores an attempt, its (attempt, node) row, and that its devices are taken. A gang's first node comes first.

        Raises:
            sqlalchemy.exc.IntegrityError: the number is taken, or a device is: a bug of the caller's.
        """
        names = {"job_uid": attempt.job_uid, "number": attempt.number, "node": attempt.node}
        held = {"devices": json.dumps(attempt.devices), "cpus": attempt.cpus, "memory_bytes": attempt.memory_bytes}
        if attempt.index:
            self._run(_INSERT_MEMBER, names | held | {"place": attempt.index} | _changing(attempt))
        else:
            others = json.dumps(attempt.others) if attempt.others else ""
            self._run(_INSERT, names | held | {"others": others} | _changing_first(attempt))
        self._run(_INSERT_NODE, names | {"claim_nonce": b"", "applied": 0})
        if attempt.devices and attempt.charged:
            self._run(_CHARGE, [names | {"device": device} for device in attempt.devices])

    def attempt(self, job_uid: str, number: int) -> Attempt | None:
        """The attempt, locked; of a gang its first node."""
        row = self._first(_ONE, {"uid": job_uid, "number": number})
        return None if row is None else attempt_of(row)

    def attempts_on(self, node: str, refs: Collection[AttemptRef]) -> dict[AttemptRef, Attempt]:
        """Those of them that this node has a part in, locked: of a gang, this node's part."""
        if not refs:
            return {}
        bounds = {"refs": [(ref.job_uid, ref.number) for ref in refs], "node": node}
        found = [*self._all(_SOME_ON, bounds), *self._all(_MEMBERS_ON, bounds)]
        return {AttemptRef(row[0], row[1]): attempt_of(row) for row in found}

    def parts(self, job_uid: str, number: int) -> list[Attempt]:
        """The attempt as it is on each of its nodes, the first first, locked."""
        bounds = {"uid": job_uid, "number": number}
        return [attempt_of(row) for row in (*self._all(_ONE, bounds), *self._all(_MEMBERS, bounds))]

    def claimants(self, job_uid: str, number: int) -> frozenset[str]:
        """The nodes that have asked for their part."""
        return frozenset(row[0] for row in self._all(_CLAIMANTS, {"uid": job_uid, "number": number}))

    def incomplete_gangs(self, *, before_us: int) -> list[Attempt]:
        """The first nodes of gangs that were assigned before and are not claimed, by all, yet."""
        return [attempt_of(row) for row in self._all(_INCOMPLETE, {"before": before_us})]

    def charged_attempts(self) -> list[Attempt]:
        """Every attempt whose devices count as taken (any state but ENDED), of all nodes, a gang's each by itself."""
        return _by_node(self._all(_CHARGED))

    def charged_on(self, node: str) -> list[Attempt]:
        """The same of one node."""
        return _by_node(self._all(_CHARGED_ON, {"node": node}))

    def save_attempt(self, attempt: Attempt) -> None:
        """Writes everything of it but its names and devices; ENDED frees the devices."""
        of = {"of_uid": attempt.job_uid, "of_number": attempt.number}
        on = of | {"of_node": attempt.node}
        if attempt.index:
            self._run(_SAVE_MEMBER, on | _changing(attempt))
        else:
            self._run(_SAVE, of | _changing_first(attempt))
        if not attempt.charged:
            self._run(_DISCHARGE, on)

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
