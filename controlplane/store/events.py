"""Events, numbered per job, and how far the relay has brought them to JetStream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select, text, update

from controlplane.domain.event import StoredEvent
from controlplane.engine.ports import Unpublished
from controlplane.store import tables
from controlplane.store.bound import Bound, Bulk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_e = tables.events.c
_j = tables.jobs.c

_INSERT = Bulk(tables.events.insert(), ["job_uid", "sequence", "type", "time_us", "json"])
_AFTER = (
    select(_e.job_uid, _j.project, _j.job_id, _e.sequence, _e.type, _e.time_us, _e.json)
    .join_from(tables.events, tables.jobs, _e.job_uid == _j.uid)
    .where(_e.job_uid == bindparam("uid"), _e.sequence > bindparam("sequence"))
    .order_by(_e.sequence)
    .limit(bindparam("limit"))
)
_UNPUBLISHED = (
    select(_j.uid, _j.published_sequence, _j.last_sequence)
    .where(text("published_sequence < last_sequence"))
    .order_by(_j.uid)
    .limit(bindparam("limit"))
)
_MARK = Bulk(
    update(tables.jobs)
    .where(_j.uid == bindparam("of_uid"), _j.published_sequence < bindparam("sequence"))
    .values(published_sequence=bindparam("sequence")),
    ["of_uid", "sequence"],
)
_UNPUBLISH = (
    update(tables.jobs)
    .where(_j.update_time_us >= bindparam("since_us"), _j.published_sequence > 0)
    .values(published_sequence=0)
)


class Events(Bound):
    """`events` in one transaction."""

    def append_events(self, events: Sequence[StoredEvent]) -> None:
        """Stores events; a number that is taken is a bug and raises."""
        if events:
            _INSERT.run(self._connection, [(e.uid, e.sequence, e.type, e.time_us, e.json) for e in events])

    def events_after(self, uid: str, sequence: int, *, limit: int) -> list[StoredEvent]:
        """In order."""
        rows = self._all(_AFTER, {"uid": uid, "sequence": sequence, "limit": limit})
        return [StoredEvent(*row) for row in rows]

    def unpublished(self, *, limit: int) -> list[Unpublished]:
        """Jobs with events that are not in JetStream yet, oldest job first."""
        return [Unpublished(*row) for row in self._all(_UNPUBLISHED, {"limit": limit})]

    def mark_published(self, sequences: Mapping[str, int]) -> None:
        """Uid -> every event up to this sequence is in JetStream. Never moves back."""
        if sequences:
            _MARK.run(self._connection, sorted(sequences.items()))

    def unpublish_since(self, time_us: int) -> int:
        """After a wiped stream: marks all events of jobs updated since then as not published; answers how many jobs.

        Reads every job: this happens once in a stream's life, and an index on a time that each report moves would not
        be worth its writes.
        """
        return self._run(_UNPUBLISH, {"since_us": time_us}).rowcount
