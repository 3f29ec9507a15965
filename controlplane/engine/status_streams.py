"""Status streams: every event of a job, in order and in batches, resumed at the first that was not acknowledged.

    events after the cursor, up to 100 ──► one POST ──► 2xx: the cursor moves to the last of them, and so on
                                                    ├─► 410: disabled
                                                    └─► else: again after 1 s, 2 s … 1 min, until 3 days after the end

Nothing overtakes a batch that fails, whatever that costs: a stream is for readers that rebuild a state from it. A
batch is made anew for each try, so that after an outage it holds what has gathered; its `webhook-id`,
`<uid>.<first>-<last>`, says which events it holds, and the same id always has the same bytes. No secret of the user's
goes here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from controlplane.domain import delivery as d
from controlplane.domain.delivery import Endpoint, EndpointState, Outcome
from controlplane.domain.event import TERMINAL_TYPES
from controlplane.engine.posting import Parcel, delivery, record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.event import StoredEvent
    from controlplane.engine.ports import Store, Transaction
    from controlplane.engine.posting import Sender


@dataclass(frozen=True, slots=True)
class _Batch:
    """What an endpoint is owed next."""

    events: Sequence[StoredEvent]
    job_ended_us: int


class StatusStreams:
    """Serves one status stream at a time, for as long as it takes what it is owed."""

    def __init__(self, store: Store, *, sender: Sender) -> None:
        self._store = store
        self._sender = sender

    async def serve(self, endpoint: Endpoint) -> None:
        """Delivers what the endpoint is owed, until nothing is left or a try fails."""
        while True:
            current = endpoint
            batch = await self._store.read(partial(_next, endpoint=current))
            if not batch.events:
                return
            first, last = batch.events[0], batch.events[-1]
            posted = await self._sender.post(_parcel(current, batch.events))
            verdict = d.judge_batch(current, last.sequence, posted.heard, job_ended_us=batch.job_ended_us)
            endpoint = verdict.endpoint
            if verdict.outcome is Outcome.DELIVERED and last.type in TERMINAL_TYPES:
                endpoint = replace(endpoint, state=EndpointState.SETTLED)
            # A running job's stream succeeds once a second: of those tries, the cursor is record enough.
            worth_telling = verdict.outcome is not Outcome.DELIVERED or current.tries > 0
            tried = delivery(current, first.sequence, posted, verdict.outcome) if worth_telling else None
            await self._store.write(partial(record, endpoint=endpoint, tried=tried))
            if verdict.outcome is not Outcome.DELIVERED or endpoint.state is not EndpointState.ACTIVE:
                return


def _next(tx: Transaction, *, endpoint: Endpoint) -> _Batch:
    events = tx.events_after(endpoint.job_uid, endpoint.cursor, limit=d.STREAM_BATCH)
    job = tx.job(endpoint.job_uid) if events else None
    return _Batch(events, job.end_time_us if job else 0)


def _parcel(endpoint: Endpoint, events: Sequence[StoredEvent]) -> Parcel:
    return Parcel(
        uid=endpoint.job_uid,
        url=endpoint.url,
        id=f"{endpoint.job_uid}.{events[0].sequence}-{events[-1].sequence}",
        content_type="application/cloudevents-batch+json",
        body=f"[{','.join(event.json for event in events)}]".encode(),
    )
