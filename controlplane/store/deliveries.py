"""Endpoints with their cursors, every try of a delivery, and events that are tried again behind a cursor."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, func, literal_column, select, text, union_all, update

from controlplane.domain.delivery import Delivery, Endpoint, EndpointState, Outcome, PendingRetry
from controlplane.store import tables
from controlplane.store.bound import Bound, Lockable, Upsert

if TYPE_CHECKING:
    from collections.abc import Sequence

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
_HAS_ENDPOINT = update(tables.jobs).where(_j.uid == bindparam("of_uid"), _j.endpoint_owed).values(endpoint_owed=False)
_INSERT = Upsert(tables.endpoints)
_ACTIVE = text("endpoints.state = 'ACTIVE'")
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
_ONE = Lockable.of(select(*_COLUMNS).where(_e.job_uid == bindparam("uid"), _e.kind == bindparam("kind")))
_DUE = (
    select(*_COLUMNS)
    .join_from(tables.endpoints, tables.jobs, _e.job_uid == _j.uid)
    .where(_ACTIVE, _e.next_try_time_us <= bindparam("now_us"), _e.cursor < _j.last_sequence)
    .order_by(_e.next_try_time_us, _e.job_uid)
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
    select(_r.job_uid, _r.kind, _r.sequence, _r.tries, _r.next_try_time_us)
    .where(_r.next_try_time_us <= bindparam("now_us"))
    .order_by(_r.next_try_time_us, _r.job_uid, _r.sequence)
    .limit(bindparam("limit"))
)
_SAVE_RETRY = Upsert(tables.pending_retries, replacing=["tries", "next_try_time_us"])
_DELETE_RETRY = tables.pending_retries.delete().where(
    _r.job_uid == bindparam("uid"), _r.kind == bindparam("of_kind"), _r.sequence == bindparam("number")
)


def _endpoint_of(row: AnyRow) -> Endpoint:
    uid, kind, url, types, state, *others = row
    return Endpoint(uid, kind, url, tuple(json.loads(types)), EndpointState(state), *others)


def _delivery_of(row: AnyRow) -> Delivery:
    uid, kind, sequence, number, time_us, outcome, *others = row
    return Delivery(uid, kind, sequence, number, time_us, Outcome(outcome), *others)


class Deliveries(Bound):
    """`endpoints`, `deliveries` and `pending_retries` in one transaction."""

    def jobs_without_endpoint(self, *, limit: int) -> list[tuple[str, str]]:
        """Jobs that owe a webhook and have no endpoint row yet, oldest first: (uid, spec as sent)."""
        return [(row[0], row[1]) for row in self._all(_OWED, {"limit": limit})]

    def endpoint(self, job_uid: str, kind: str) -> Endpoint | None:
        """The endpoint, locked."""
        row = self._first(_ONE, {"uid": job_uid, "kind": kind})
        return None if row is None else _endpoint_of(row)

    def insert_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Stores them; repeats change nothing."""
        if not endpoints:
            return
        self._run(_HAS_ENDPOINT, [{"of_uid": uid} for uid in sorted({endpoint.job_uid for endpoint in endpoints})])
        rows = [
            asdict(endpoint) | {"types": json.dumps(endpoint.types), "state": endpoint.state.value}
            for endpoint in endpoints
        ]
        self._run(_INSERT.on(self._connection), rows)

    def due_endpoints(self, *, now_us: int, limit: int) -> list[Endpoint]:
        """ACTIVE ones with events behind the cursor whose next try is due.

        Reads the ACTIVE endpoints whose time has come and looks each job's last event up: as many as there are live
        jobs with a webhook, at about 1 us each.
        """
        return [_endpoint_of(row) for row in self._all(_DUE, {"now_us": now_us, "limit": limit})]

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

    def due_retries(self, *, now_us: int, limit: int) -> list[PendingRetry]:
        """Events that were overtaken and are due again."""
        return [PendingRetry(*row) for row in self._all(_DUE_RETRIES, {"now_us": now_us, "limit": limit})]

    def save_retry(self, retry: PendingRetry) -> None:
        """Inserts or replaces."""
        self._run(_SAVE_RETRY.on(self._connection), asdict(retry))

    def delete_retry(self, retry: PendingRetry) -> None:
        """It is delivered, or dead."""
        self._run(_DELETE_RETRY, {"uid": retry.job_uid, "of_kind": retry.kind, "number": retry.sequence})
