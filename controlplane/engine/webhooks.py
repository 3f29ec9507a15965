"""Webhooks: every event that was asked for, in order, tried until it is taken or dead.

    events ──► cursor of the job's webhook in SQL ──► one try at a time ──► 2xx: the cursor moves on
                                                                       ├─► failing for 5 minutes: overtaken, tried alone
                                                                       └─► 410: disabled; after 8 retries: dead

`webhook-id` is the event's id, the same over retries. Only here is the user's `auth_header` opened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from controlplane.domain import delivery as d
from controlplane.domain.delivery import Endpoint, EndpointState, Outcome, PendingRetry
from controlplane.domain.event import TERMINAL_TYPES
from controlplane.engine.changes import DELIVERY_SECRET
from controlplane.engine.ports import Answer
from controlplane.engine.posting import Parcel, delivery, record

if TYPE_CHECKING:
    from controlplane.domain.event import StoredEvent
    from controlplane.engine.ports import Clock, Store, Transaction, Vault
    from controlplane.engine.posting import Posted, Sender

_PAGE = 500


@dataclass(frozen=True, slots=True)
class _Due:
    """The next event for an endpoint, and what sending it needs."""

    event: StoredEvent
    url: str
    secrets: bytes


@dataclass(frozen=True, slots=True)
class _Skipped:
    """Nothing asked for lies between the cursor and here."""

    up_to: int
    ended: bool


class Webhooks:
    """Serves one webhook at a time, for as long as it takes what it is owed."""

    def __init__(self, store: Store, *, sender: Sender, vault: Vault, clock: Clock) -> None:
        self._store = store
        self._sender = sender
        self._vault = vault
        self._clock = clock

    async def serve(self, endpoint: Endpoint) -> None:
        """Delivers what the endpoint is owed, until nothing is left or a try fails."""
        while True:
            current = endpoint
            following = await self._store.read(partial(self._next, endpoint=current))
            if following is None:
                return
            if isinstance(following, _Skipped):
                state = EndpointState.SETTLED if following.ended else current.state
                endpoint = replace(current, cursor=following.up_to, state=state)
                await self._store.write(partial(record, endpoint=endpoint, tried=None))
                if following.ended:
                    return
                continue
            posted = await self._post(following)
            event = following.event
            verdict = d.judge(current, event.sequence, posted.heard)
            endpoint = verdict.endpoint
            if endpoint.cursor >= event.sequence and event.type in TERMINAL_TYPES:
                endpoint = replace(endpoint, state=EndpointState.SETTLED)
            tried = delivery(current, event.sequence, posted, verdict.outcome)
            await self._store.write(partial(record, endpoint=endpoint, tried=tried, retry=verdict.retry))
            if verdict.outcome is not Outcome.DELIVERED or endpoint.state is not EndpointState.ACTIVE:
                return

    async def serve_alone(self, retry: PendingRetry) -> None:
        """One try of an overtaken event."""

        def load(tx: Transaction) -> _Due | None:
            endpoint = tx.endpoint(retry.job_uid, retry.kind)
            row = tx.events_after(retry.job_uid, retry.sequence - 1, limit=1)
            if endpoint is None or not row or endpoint.state is EndpointState.DISABLED:
                return None
            return self._due(tx, endpoint, row[0])

        due = await self._store.read(load)
        if due is None:
            await self._store.write(lambda tx: tx.delete_retry(retry))
            return
        posted = await self._post(due)
        outcome, again = d.judge_retry(retry, posted.heard)
        tried = delivery(retry, retry.sequence, posted, outcome)

        def work(tx: Transaction) -> None:
            tx.insert_delivery(tried)
            if again is None:
                tx.delete_retry(retry)
            else:
                tx.save_retry(again)

        await self._store.write(work)

    def _next(self, tx: Transaction, *, endpoint: Endpoint) -> _Due | _Skipped | None:
        row = tx.events_after(endpoint.job_uid, endpoint.cursor, limit=_PAGE)
        for event in row:
            if event.type in endpoint.types:
                return self._due(tx, endpoint, event)
        return _Skipped(row[-1].sequence, ended=row[-1].type in TERMINAL_TYPES) if row else None

    def _due(self, tx: Transaction, endpoint: Endpoint, event: StoredEvent) -> _Due:
        sealed = tx.sealed_secrets(endpoint.job_uid)
        return _Due(event, endpoint.url, sealed.sealed if sealed else b"")

    async def _post(self, due: _Due) -> Posted:
        event = due.event
        try:
            secrets = self._vault.open(due.secrets, uid=event.uid) if due.secrets else {}
        except ValueError as error:
            answer = Answer(0, None, f"not sent: its secrets are {error}", timedelta())
            return self._sender.posted(answer, started_us=self._clock.now_us())
        parcel = Parcel(
            uid=event.uid,
            url=due.url,
            id=f"{event.uid}.{event.sequence}",
            content_type="application/cloudevents+json",
            body=event.json.encode(),
            headers={"authorization": secrets[DELIVERY_SECRET]} if DELIVERY_SECRET in secrets else {},
        )
        return await self._sender.post(parcel)
