"""Telling endpoints: which of them are due, and how many at once. `webhooks.py` and `status_streams.py` tell one.

    submit ──► endpoints, each with a cursor ──due──► a place ──► one try at a time of each, recorded

A slow endpoint holds one place among many, and a host that hangs no more than its share of them; neither ever holds
another endpoint's turn. An endpoint's failure never touches a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from controlplane.domain import delivery as d
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from controlplane.engine.posting import Sender
from controlplane.engine.signals import Bell
from controlplane.engine.status_streams import StatusStreams
from controlplane.engine.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controlplane.engine.ports import Clock, Outbound, Store, Transaction, Vault

CONCURRENCY = 64
PER_HOST = 16
"""Of those places, for one host and port: one that hangs leaves three quarters of them to the others."""
UNREACHED_PER_ROUND = 1
"""Of a host to which the last try found no connection: with the pace, five tries a second. Thousands of jobs whose
webhook is down must not take a core from submits, and their tries must go on, for each of them has its own end."""
SWEEP_SECONDS = 1.0
SECRET_RETENTION = timedelta(days=7)
_PACE_SECONDS = 0.2
STARTS_PER_ROUND = 40
CROWDED_STARTS = 4
"""With the pace: 200 endpoints a second. Thousands of jobs whose webhook is down must not take a core from submits."""
BUSY_SECONDS = 0.005
"""Where one turn of the event loop takes longer, others wait for it: then few are started in a round."""
_UNRECORDED_SECONDS = 5.0
_AT_FIRST = 4
_LOOK_PAST_COST = 50
"""Looking past the hosts that may not be told takes at most a part in so many of the time."""
_PAGE = 500
_ADOPTED_AT_ONCE = 100
"""In one transaction: at about 80 us a job, what else the event loop has to do waits no longer than for 8 ms."""

#: (job, kind, 0) for an endpoint, (job, kind, sequence) for an overtaken event: never two tries of one at a time.
_Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class _Turn:
    """Something that is due."""

    key: _Key
    host: str
    work: Callable[[], Awaitable[None]]


class Deliveries:
    """Tells the endpoints of all jobs."""

    def __init__(
        self, store: Store, *, outbound: Outbound, vault: Vault, clock: Clock, sweep_seconds: float = SWEEP_SECONDS
    ) -> None:
        self.bell = Bell(pace_seconds=_PACE_SECONDS)
        self._store = store
        self._clock = clock
        self._sweep_seconds = sweep_seconds
        self._sender = Sender(outbound, vault=vault, clock=clock)
        self._webhooks = Webhooks(store, sender=self._sender, vault=vault, clock=clock)
        self._streams = StatusStreams(store, sender=self._sender)
        self._busy: dict[_Key, str] = {}
        """What has a place, and at which host."""
        self._started = STARTS_PER_ROUND
        """By the last round."""
        self._look_past_at = 0.0
        """When what is due may be looked for behind hosts that may not be told: that reads all that is due there."""

    async def run(self) -> None:
        """The loop: starts what is due; SQL being away only delays it."""
        await self._adopt()
        async with asyncio.TaskGroup() as tries:
            while True:
                try:
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
        """Writes the endpoints of jobs that a former version stored without, and was stopped before it had."""

        def work(tx: Transaction) -> int:
            found = tx.jobs_without_endpoint(limit=_ADOPTED_AT_ONCE)
            tx.insert_endpoints([each for uid, sent in found for each in d.endpoints_of(uid, json.loads(sent))])
            tx.owe_no_endpoint([uid for uid, _ in found])
            return len(found)

        while True:
            try:
                if not await self._store.read(lambda tx: tx.jobs_without_endpoint(limit=1)):
                    return
                await self._store.write(work)
            except (StoreUnavailable, OutcomeUnknown):
                await self._clock.sleep(SWEEP_SECONDS)

    async def _start_due(self, tries: asyncio.TaskGroup) -> bool:
        """Starts as many tries as a round may; answers whether more are due that have a place."""
        places = min(CONCURRENCY - len(self._busy), CROWDED_STARTS if await self._is_crowded() else STARTS_PER_ROUND)
        if places <= 0:
            return False  # whichever ends first rings
        hosts = Counter(self._busy.values())
        # Whichever of them are busy, enough others are there for the free places. Where the last round could start few,
        # few are read first.
        limit = len(self._busy) + min(places, 2 * self._started + _AT_FIRST) + 1
        found = await self._due(limit=limit, without=[])
        started = self._start_some(tries, found, hosts, places)
        if started < places and len(found) >= limit and self._clock.monotonic() >= self._look_past_at:
            # Those that may not be told just now come first, and hide others that may.
            began = self._clock.monotonic()
            shut = [host for host in {turn.host for turn in found} | hosts.keys() if not self._share(host, hosts)]
            found = await self._due(limit=limit, without=shut)
            self._look_past_at = began + _LOOK_PAST_COST * (self._clock.monotonic() - began)
            started += self._start_some(tries, found, hosts, places - started)
        self._started = started
        return len(found) > started > 0 and len(self._busy) < CONCURRENCY

    def _start_some(self, tries: asyncio.TaskGroup, due: list[_Turn], hosts: Counter[str], places: int) -> int:
        started = 0
        for turn in due:
            if started < places and turn.key not in self._busy and self._share(turn.host, hosts):
                hosts[turn.host] += 1
                started += 1
                self._start(tries, turn)
        return started

    def _share(self, host: str, hosts: Counter[str]) -> bool:
        """Whether one more call to this host may be under way."""
        return hosts[host] < (UNREACHED_PER_ROUND if host in self._sender.unreached else PER_HOST)

    async def _due(self, *, limit: int, without: list[str]) -> list[_Turn]:
        """What is due, the longest due first, but for these hosts."""
        now_us = self._clock.now_us()
        endpoints, retries = await self._store.read(
            lambda tx: (
                tx.due_endpoints(now_us=now_us, limit=limit, full_hosts=without),
                tx.due_retries(now_us=now_us, limit=limit, full_hosts=without),
            )
        )
        serve = {d.WEBHOOK: self._webhooks.serve, d.STATUS_STREAM: self._streams.serve}
        due = [_Turn((e.job_uid, e.kind, 0), e.host, partial(serve[e.kind], e)) for e in endpoints]
        alone = self._webhooks.serve_alone
        return due + [_Turn((r.job_uid, r.kind, r.sequence), r.host, partial(alone, r)) for r in retries]

    async def _is_crowded(self) -> bool:
        """Whether requests wait for the event loop; a try costs it as much as a submit."""
        began = self._clock.monotonic()
        await self._clock.sleep(0)  # one turn
        return self._clock.monotonic() - began > BUSY_SECONDS

    def _start(self, tries: asyncio.TaskGroup, turn: _Turn) -> None:
        self._busy[turn.key] = turn.host

        async def guarded() -> None:
            try:
                await turn.work()
            except (StoreUnavailable, OutcomeUnknown):
                # The sweep finds it again, and would at once: what cannot be written down is not posted all the time.
                await self._clock.sleep(_UNRECORDED_SECONDS)
            finally:
                del self._busy[turn.key]
                self.bell.ring()

        tries.create_task(guarded())
