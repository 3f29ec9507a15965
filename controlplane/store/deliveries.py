"""Endpoints with their cursors, every try of a delivery, and events that are tried again behind a cursor."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, literal_column, select, text, union_all, update

from controlplane.domain.delivery import Delivery, Endpoint, EndpointState, Outcome, PendingRetry
from controlplane.store import tables
from controlplane.store.bound import Bound, Bulk, Lockable, Upsert

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement

    from controlplane.store.bound import AnyRow, AnySelect

_j = tables.jobs.c
_s = tables.job_specs.c
_e = tables.endpoints.c
_d = tables.deliveries.c
_r = tables.pending_retries.c

_OWED = (
    select(_j.uid, _s.sent)
    .join_from(tables.jobs, tables.job_specs, _s.uid == _j.uid)
    .where(text("endpoint_owed"))
    .order_by(_j.uid)
    .limit(bindparam("limit"))
)
_OWES_NONE = update(tables.jobs).where(_j.uid == bindparam("of_uid")).values(endpoint_owed=literal_column("false"))
_ACTIVE = text("endpoints.state = 'ACTIVE'")


def _not_full(host: ColumnElement[Any]) -> ColumnElement[bool]:
    return host.not_in(bindparam("full_hosts", expanding=True))


#: In the order of `Endpoint`'s fields.
_COLUMNS = (
    _e.job_uid,
    _e.kind,
    _e.url,
    _e.types,
    _e.state,
    _e.cursor,
    _e.tries,
    _e.next_try_time_us,
    _e.first_failure_time_us,
)
_INSERT = Bulk(Upsert(tables.endpoints), [column.name for column in (*_COLUMNS, _e.host)])
_ONE = Lockable.of(select(*_COLUMNS).where(_e.job_uid == bindparam("uid"), _e.kind == bindparam("kind")))
_DUE = (
    select(*_COLUMNS)
    .join_from(tables.endpoints, tables.jobs, _e.job_uid == _j.uid)
    .where(_ACTIVE, _e.next_try_time_us <= bindparam("now_us"), _e.cursor < _j.last_sequence, _not_full(_e.host))
    .order_by(_e.next_try_time_us, _e.job_uid, _e.kind)
    .limit(bindparam("limit"))
)
_SAVE = (
    update(tables.endpoints)
    .where(_e.job_uid == bindparam("of_uid"), _e.kind == bindparam("of_kind"))
    .values({column: bindparam(column.name) for column in _COLUMNS[4:]})
)
_NEXT_TRY: AnySelect = select(func.min(literal_column("due"))).select_from(
    union_all(
        select(func.min(_e.next_try_time_us).label("due")).where(_ACTIVE, _e.next_try_time_us > 0),
        select(func.min(_r.next_try_time_us).label("due")),
    ).subquery()
)
_INSERT_DELIVERY = tables.deliveries.insert()
_DELIVERIES = (
    select(
        _d.job_uid,
        _d.kind,
        _d.sequence,
        _d.number,
        _d.time_us,
        _d.outcome,
        _d.status_code,
        _d.detail,
        _d.duration_seconds,
    )
    .where(_d.job_uid == bindparam("uid"))
    .order_by(_d.time_us, _d.kind, _d.sequence, _d.number)
)
_DUE_RETRIES = (
    select(_r.job_uid, _r.kind, _r.sequence, _r.tries, _r.next_try_time_us, _r.host)
    .where(_r.next_try_time_us <= bindparam("now_us"), _not_full(_r.host))
    .order_by(_r.next_try_time_us, _r.job_uid, _r.kind, _r.sequence)
    .limit(bindparam("limit"))
)
_SAVE_RETRY = Upsert(tables.pending_retries, replacing=["tries", "next_try_time_us"])
_DELETE_RETRY = tables.pending_retries.delete().where(
    _r.job_uid == bindparam("uid"), _r.kind == bindparam("of_kind"), _r.sequence == bindparam("number")
)


def _endpoint_of(row: AnyRow) -> Endpoint:
    uid, kind, url, types, state, *others = row
    return Endpoint(uid, kind, url, tuple(json.loads(types)), EndpointState(state), *others)


@lru_cache(maxsize=256)
def _types_json(types: tuple[str, ...]) -> str:
    """Most jobs ask for the same few."""
    return json.dumps(types)


def _values(of: Endpoint) -> tuple[Any, ...]:
    """Those of `_COLUMNS` and the host."""
    types, state = _types_json(of.types), of.state.value
    times = (of.next_try_time_us, of.first_failure_time_us)
    return (of.job_uid, of.kind, of.url, types, state, of.cursor, of.tries, *times, of.host)


def _delivery_of(row: AnyRow) -> Delivery:
    uid, kind, sequence, number, time_us, outcome, *others = row
    return Delivery(uid, kind, sequence, number, time_us, Outcome(outcome), *others)


class Deliveries(Bound):
    """`endpoints`, `deliveries` and `pending_retries` in one transaction."""

    def jobs_without_endpoint(self, *, limit: int) -> list[tuple[str, str]]:
        """Jobs that owe endpoints, as a former version stored them, oldest first: (uid, spec as sent)."""
        return [(row[0], row[1]) for row in self._all(_OWED, {"limit": limit})]

    def owe_no_endpoint(self, uids: Sequence[str]) -> None:
        """They have theirs now."""
        if uids:
            self._run(_OWES_NONE, [{"of_uid": uid} for uid in sorted(uids)])

    def endpoint(self, job_uid: str, kind: str) -> Endpoint | None:
        """The endpoint, locked."""
        row = self._first(_ONE, {"uid": job_uid, "kind": kind})
        return None if row is None else _endpoint_of(row)

    def insert_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Stores them; repeats change nothing."""
        if endpoints:
            _INSERT.run(self._connection, list(map(_values, endpoints)))

    def due_endpoints(self, *, now_us: int, limit: int, full_hosts: Collection[str] = ()) -> list[Endpoint]:
        """ACTIVE ones with events behind the cursor whose next try is due, but for those of hosts that are full.

        Reads the ACTIVE endpoints whose time has come and looks each job's last event up: as many as live jobs have
        endpoints, at about 1 us each.
        """
        bounds = {"now_us": now_us, "limit": limit, "full_hosts": list(full_hosts)}
        return [_endpoint_of(row) for row in self._all(_DUE, bounds)]

    def save_endpoint(self, endpoint: Endpoint) -> None:
        """Writes state, cursor, tries and times."""
        self._run(
            _SAVE,
            {
                "of_uid": endpoint.job_uid,
                "of_kind": endpoint.kind,
                "state": endpoint.state.value,
                "cursor": endpoint.cursor,
                "tries": endpoint.tries,
                "next_try_time_us": endpoint.next_try_time_us,
                "first_failure_time_us": endpoint.first_failure_time_us,
            },
        )

    def next_try_time_us(self) -> int:
        """The earliest next try of any endpoint or retry; 0: none."""
        row = self._first(_NEXT_TRY)
        return 0 if row is None or row[0] is None else int(row[0])

    def insert_delivery(self, delivery: Delivery) -> None:
        """Records a try."""
        self._run(_INSERT_DELIVERY, asdict(delivery) | {"outcome": delivery.outcome.value})

    def deliveries(self, job_uid: str) -> list[Delivery]:
        """By time."""
        return [_delivery_of(row) for row in self._all(_DELIVERIES, {"uid": job_uid})]

    def due_retries(self, *, now_us: int, limit: int, full_hosts: Collection[str] = ()) -> list[PendingRetry]:
        """Events that were overtaken and are due again, but for those of hosts that are full."""
        bounds = {"now_us": now_us, "limit": limit, "full_hosts": list(full_hosts)}
        return [PendingRetry(*row) for row in self._all(_DUE_RETRIES, bounds)]

    def save_retry(self, retry: PendingRetry) -> None:
        """Inserts or replaces."""
        self._run(_SAVE_RETRY.on(self._connection), asdict(retry))

    def delete_retry(self, retry: PendingRetry) -> None:
        """It is delivered, or dead."""
        self._run(_DELETE_RETRY, {"uid": retry.job_uid, "of_kind": retry.kind, "number": retry.sequence})
