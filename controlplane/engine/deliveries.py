"""Webhooks: every event an endpoint asked for, in order, tried until it is taken or dead.

    events ──► cursor of (job, endpoint) in SQL ──► one try at a time ──► 2xx: the cursor moves on
                                                                     ├─► failing for 5 minutes: overtaken, tried alone
                                                                     └─► 410: disabled; after 8 retries: dead

Standard Webhooks: `webhook-id` is the event's id, the same over retries; the signature covers `id.timestamp.body`. A
slow endpoint holds one place among many, never another endpoint's. An endpoint's failure never touches a job.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import random
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from controlplane.domain import delivery as d
from controlplane.domain.delivery import Delivery, Endpoint, EndpointState, Outcome, PendingRetry
from controlplane.domain.event import DEFAULT_WEBHOOK_TYPES, TERMINAL_TYPES
from controlplane.engine.changes import DELIVERY_SECRET
from controlplane.engine.ports import Answer, OutcomeUnknown, StoreUnavailable
from controlplane.engine.signals import Bell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controlplane.domain.event import StoredEvent
    from controlplane.engine.ports import Clock, Outbound, Store, Transaction, Vault

CONCURRENCY = 64
SWEEP_SECONDS = 1.0
SECRET_RETENTION = timedelta(days=7)
_PACE_SECONDS = 0.2
STARTS_PER_ROUND = 40
CROWDED_STARTS = 4
"""With the pace: 200 endpoints a second. Thousands of jobs whose webhook is down must not take a core from submits."""
BUSY_SECONDS = 0.005
"""Where one turn of the event loop takes longer, others wait for it: then few are started in a round."""
_UNRECORDED_SECONDS = 5.0
_KIND = "webhook"
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


@dataclass(frozen=True, slots=True)
class _Try:
    """One try of an event."""

    sequence: int
    number: int
    started_us: int


def signature(secret: str, *, event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header (standardwebhooks.com): `v1,` and base64 of HMAC-SHA256.

    Args:
        secret: `whsec_` and the key in base64.
        event_id: the `webhook-id` header.
        timestamp: the `webhook-timestamp` header, Unix seconds.
        body: as sent.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Deliveries:
    """Tells the webhooks of all jobs."""

    def __init__(
        self, store: Store, *, outbound: Outbound, vault: Vault, clock: Clock, sweep_seconds: float = SWEEP_SECONDS
    ) -> None:
        self.bell = Bell(pace_seconds=_PACE_SECONDS)
        self._store = store
        self._outbound = outbound
        self._vault = vault
        self._clock = clock
        self._sweep_seconds = sweep_seconds
        self._busy: set[tuple[str, int]] = set()
        """(job, 0) for an endpoint, (job, sequence) for an overtaken event: never two tries of one at a time."""

    async def run(self) -> None:
        """The loop: starts what is due; SQL being away only delays it."""
        async with asyncio.TaskGroup() as tries:
            while True:
                try:
                    await self._adopt()
                    if await self._start_due(tries):
                        self.bell.ring()  # heard after the pace
                except (StoreUnavailable, OutcomeUnknown):
                    await self._clock.sleep(SWEEP_SECONDS)
                await self.bell.wait(self._sweep_seconds)

    async def erase(self) -> None:
        """The loop: secrets of deliveries that settled a week ago go."""
        while True:
            before_us = self._clock.now_us() - int(SECRET_RETENTION.total_seconds() * 1e6)

            def work(tx: Transaction, before_us: int = before_us) -> int:
                uids = tx.old_secrets(ended_before_us=before_us, limit=_PAGE)
                for uid in uids:
                    tx.set_sealed_secrets(uid, b"")
                return len(uids)

            with contextlib.suppress(StoreUnavailable, OutcomeUnknown):  # the next round finds the same
                while await self._store.write(work) == _PAGE:
                    pass
            await self._clock.sleep(3600)

    async def _adopt(self) -> None:
        """Writes the endpoint rows of new jobs: kept out of the submit, which writes no more than it must."""

        def work(tx: Transaction) -> int:
            new = tx.jobs_without_endpoint(limit=_PAGE)
            tx.insert_endpoints([_endpoint(uid, sent) for uid, sent in new])
            return len(new)

        if await self._store.read(lambda tx: tx.jobs_without_endpoint(limit=1)):
            while await self._store.write(work) == _PAGE:
                pass

    async def _start_due(self, tries: asyncio.TaskGroup) -> bool:
        """Starts as many tries as a round may; answers whether more are due that have a place."""
        places = min(CONCURRENCY - len(self._busy), CROWDED_STARTS if await self._is_crowded() else STARTS_PER_ROUND)
        if places <= 0:
            return False  # whichever ends first rings
        now_us = self._clock.now_us()
        # Whichever of them are busy, enough others are there for the free places.
        limit = len(self._busy) + places + 1
        endpoints, retries = await self._store.read(
            lambda tx: (
                tx.due_endpoints(now_us=now_us, limit=limit),
                tx.due_retries(now_us=now_us, limit=limit),
            )
        )
        due = [((each.job_uid, 0), partial(self._serve, each)) for each in endpoints]
        due += [((each.job_uid, each.sequence), partial(self._serve_alone, each)) for each in retries]
        free = [(key, work) for key, work in due if key not in self._busy]
        for key, work in free[:places]:
            self._start(tries, key, work)
        return len(free) > places and len(self._busy) < CONCURRENCY

    async def _is_crowded(self) -> bool:
        """Whether requests wait for the event loop; a try costs it as much as a submit."""
        began = self._clock.monotonic()
        await self._clock.sleep(0)  # one turn
        return self._clock.monotonic() - began > BUSY_SECONDS

    def _start(self, tries: asyncio.TaskGroup, key: tuple[str, int], work: Callable[[], Awaitable[None]]) -> None:
        self._busy.add(key)

        async def guarded() -> None:
            try:
                await work()
            except (StoreUnavailable, OutcomeUnknown):
                # The sweep finds it again, and would at once: what cannot be written down is not posted all the time.
                await self._clock.sleep(_UNRECORDED_SECONDS)
            finally:
                self._busy.discard(key)
                self.bell.ring()

        tries.create_task(guarded())

    async def _serve(self, endpoint: Endpoint) -> None:
        """Delivers what the endpoint is owed, until nothing is left or a try fails."""
        while True:
            current = endpoint
            following = await self._store.read(partial(self._next, endpoint=current))
            if following is None:
                return
            if isinstance(following, _Skipped):
                state = EndpointState.SETTLED if following.ended else current.state
                endpoint = replace(current, cursor=following.up_to, state=state)
                await self._store.write(partial(_save, endpoint=endpoint))
                if following.ended:
                    return
                continue
            started_us = self._clock.now_us()
            answer = await self._post(following)
            verdict = d.judge(
                current,
                following.event.sequence,
                status_code=answer.status_code,
                retry_after=answer.retry_after,
                now_us=self._clock.now_us(),
                jitter=random.random(),  # noqa: S311 - spreads retries, keeps no secret
            )
            endpoint = verdict.endpoint
            if endpoint.cursor >= following.event.sequence and following.event.type in TERMINAL_TYPES:
                endpoint = replace(endpoint, state=EndpointState.SETTLED)
            tried = _Try(following.event.sequence, current.tries + 1, started_us)
            made = _delivery(current, tried, answer, verdict.outcome)
            await self._store.write(partial(_record, endpoint=endpoint, tried=made, retry=verdict.retry))
            if verdict.outcome is not Outcome.DELIVERED or endpoint.state is not EndpointState.ACTIVE:
                return

    async def _serve_alone(self, retry: PendingRetry) -> None:
        """One try of an overtaken event."""

        def load(tx: Transaction) -> tuple[Endpoint, _Due] | None:
            endpoint = tx.endpoint(retry.job_uid, retry.kind)
            row = tx.events_after(retry.job_uid, retry.sequence - 1, limit=1)
            if endpoint is None or not row or endpoint.state is EndpointState.DISABLED:
                return None
            return endpoint, self._due(tx, endpoint, row[0])

        loaded = await self._store.read(load)
        if loaded is None:
            await self._store.write(lambda tx: tx.delete_retry(retry))
            return
        endpoint, due = loaded
        started_us = self._clock.now_us()
        answer = await self._post(due)
        outcome, again = d.judge_retry(
            retry,
            status_code=answer.status_code,
            retry_after=answer.retry_after,
            now_us=self._clock.now_us(),
            jitter=random.random(),  # noqa: S311 - likewise
        )
        tried = _delivery(endpoint, _Try(retry.sequence, retry.tries + 1, started_us), answer, outcome)

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

    async def _post(self, due: _Due) -> Answer:
        event, body = due.event, due.event.json.encode()
        event_id, timestamp = f"{event.uid}.{event.sequence}", self._clock.now_us() // 1_000_000
        secret = self._vault.signing_secret(event.uid)
        headers = {
            "content-type": "application/cloudevents+json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, event_id=event_id, timestamp=timestamp, body=body),
        }
        try:
            secrets = self._vault.open(due.secrets, uid=event.uid) if due.secrets else {}
        except ValueError as error:
            return Answer(0, None, f"not sent: its secrets are {error}", timedelta())
        if DELIVERY_SECRET in secrets:
            headers["authorization"] = secrets[DELIVERY_SECRET]
        return await self._outbound.post(due.url, body=body, headers=headers, deadline=d.TRY_DEADLINE)


def _endpoint(uid: str, sent: str) -> Endpoint:
    callbacks = json.loads(sent)["callbacks"]
    types = callbacks.get("events") or sorted(DEFAULT_WEBHOOK_TYPES)
    return Endpoint(uid, _KIND, callbacks["webhook_url"], tuple(str(t) for t in types))


def _delivery(endpoint: Endpoint, tried: _Try, answer: Answer, outcome: Outcome) -> Delivery:
    return Delivery(
        job_uid=endpoint.job_uid,
        kind=endpoint.kind,
        sequence=tried.sequence,
        number=tried.number,
        time_us=tried.started_us,
        outcome=outcome,
        status_code=answer.status_code,
        detail=answer.detail,
        duration_seconds=answer.duration.total_seconds(),
    )


def _save(tx: Transaction, *, endpoint: Endpoint) -> None:
    tx.save_endpoint(endpoint)


def _record(tx: Transaction, *, endpoint: Endpoint, tried: Delivery, retry: PendingRetry | None) -> None:
    tx.insert_delivery(tried)
    tx.save_endpoint(endpoint)
    if retry is not None:
        tx.save_retry(retry)
