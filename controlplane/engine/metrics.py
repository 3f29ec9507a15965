"""Showing how training went: chunks from SQL, put together and thinned off the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from controlplane.domain.errors import JobNotFound
from controlplane.domain.metrics import Curves, thinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.metrics import Curve, MetricChunk
    from controlplane.engine.ports import Store, Transaction

_PAGE = 200


class Metrics:
    """Reads what jobs measured."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def curves(self, job_id: str, *, project: str, most: int) -> dict[str, Curve]:
        """Each series that has a point, by name, with at most so many.

        Raises:
            JobNotFound: there is none in this project.
        """

        def begin(tx: Transaction) -> tuple[str, dict[int, int]]:
            record = tx.record(project, job_id)
            if record is None:
                raise JobNotFound(job_id)
            return record.job.uid, tx.first_measured_steps(record.job.uid)

        uid, first_steps = await self._store.read(begin)
        curves = Curves(first_steps)
        after = (0, 0)
        while page := await self._page(uid, after):
            # A long job has a hundred thousand points to be parsed: not on the loop.
            await asyncio.to_thread(curves.add, page)
            after = (page[-1].attempt, page[-1].sequence)
        shown = {name: curve for name, curve in sorted(curves.by_name.items()) if curve.steps}
        return {name: await asyncio.to_thread(thinned, curve, most) for name, curve in shown.items()}

    async def _page(self, uid: str, after: tuple[int, int]) -> Sequence[MetricChunk]:
        return await self._store.read(lambda tx: tx.metric_chunks(uid, after=after, limit=_PAGE))
