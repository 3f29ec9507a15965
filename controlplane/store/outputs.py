"""Where live jobs publish."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select, text

from controlplane.store import tables
from controlplane.store.bound import Bound, Lockable
from controlplane.store.jobs import COLUMNS, job_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.job import Job

_j = tables.jobs.c

# The index's condition stands in the text, as elsewhere: SQLite takes a partial index only so.
_LIVE = "end_time_us = 0 AND output_place <> ''"
_BESIDE = f"""SELECT wanted.value,
           (SELECT output_place FROM jobs WHERE project = :project AND {_LIVE} AND output_place <= wanted.value
             ORDER BY output_place DESC LIMIT 1),
           (SELECT output_place FROM jobs WHERE project = :project AND {_LIVE} AND output_place >= wanted.value
             ORDER BY output_place LIMIT 1)
      FROM"""  # noqa: S608 - nothing of a caller's is put into it
#: The places come as one parameter however many they are, so that the statement is the same for every batch.
_BESIDE_ON = {
    "sqlite": text(f"{_BESIDE} json_each(:places) AS wanted"),
    "postgresql": text(f"{_BESIDE} json_array_elements_text(CAST(:places AS json)) AS wanted(value)"),
}
_HOLDER = Lockable.of(
    select(*COLUMNS).where(text(_LIVE), _j.project == bindparam("project"), _j.output_place == bindparam("place"))
)


class Outputs(Bound):
    """`jobs.output_place` in one transaction."""

    def outputs_beside(self, project: str, places: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """For each of these places the live jobs' places next to it: the last up to it, and the first from it on."""
        if not places:
            return {}
        query = _BESIDE_ON[self._connection.dialect.name]
        rows = self._all(query, {"project": project, "places": json.dumps(places)})
        return {row[0]: tuple(other for other in row[1:] if other is not None) for row in rows}

    def output_holder(self, project: str, place: str) -> Job | None:
        """The live job that publishes exactly there, locked."""
        row = self._first(_HOLDER, {"project": project, "place": place})
        return None if row is None else job_of(row)
