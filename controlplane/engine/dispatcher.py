"""Giving waiting jobs to nodes.

A round looks at the jobs that nobody has looked at yet; when capacity grew (a node joined, an attempt ended) it also
walks the whole queue, a page a round. So a queue of a hundred thousand jobs costs nothing while nothing changes, and a
new job is placed at once. A job that cannot be placed says why, and does not hold back smaller ones behind it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from controlplane.domain import news as n
from controlplane.domain import placement, spec
from controlplane.domain.attempt import Attempt, AttemptState
from controlplane.engine import gangs
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from controlplane.engine.signals import Bell
from controlplane.engine.waits import KnownWaits

if TYPE_CHECKING:
    from controlplane.domain.capacity import Placement
    from controlplane.domain.job import Requirement, WaitingJob
    from controlplane.domain.spec import Rules
    from controlplane.engine.changes import Changes, Recorder
    from controlplane.engine.prober import Prober

SWEEP_SECONDS = 1.0
PAGE = 500
_PACE_SECONDS = 0.02
_FULL_SWEEPS = 30
"""Every so many sweeps the whole queue is walked, whatever the hints said."""
_CROWD = 4
_CROWD_PACE_SECONDS = 0.1
"""After a round of so many jobs the next waits longer and takes more: a round costs as much as ten submits."""
_REQUEUE_US = 500_000
"""How often recovering jobs are looked for; their waits are seconds."""
_BEGINNING = (101, "")
"""Before the highest priority."""


class Dispatcher:
    """Places waiting jobs, and queues recovered ones again."""

    def __init__(self, recorder: Recorder, *, rules: Rules, prober: Prober) -> None:
        self.bell = Bell(pace_seconds=_PACE_SECONDS)
        self.waits = KnownWaits()
        self._recorder = recorder
        self._rules = rules
        self._prober = prober
        self._walk: tuple[int, str] | None = _BEGINNING
        """How far the walk over the whole queue is; None: none is under way."""
        self._walks = 0
        self._sweeps = 0
        self._requeued_us = 0
        self._placed = 0
        """How many jobs the last round looked at."""

    def capacity_grew(self) -> None:
        """Begins the walk over the whole queue anew."""
        self._begin_walk()
        self.bell.ring()

    def _begin_walk(self) -> None:
        self._walk = _BEGINNING
        self._walks += 1
        self.waits.forget()

    async def run(self) -> None:
        """The loop: a round on every hint, and every second; SQL being away only delays it."""
        while True:
            try:
                more = await self.round()
            except (StoreUnavailable, OutcomeUnknown):
                more = False  # the next sweep finds what there is
            pace = _CROWD_PACE_SECONDS if self._placed >= _CROWD else None
            if not more and not await self.bell.wait(SWEEP_SECONDS, pace_seconds=pace):
                self._sweeps += 1
                if self._sweeps % _FULL_SWEEPS == 0:
                    self._begin_walk()

    async def round(self) -> bool:
        """One transaction; answers whether another should follow at once."""
        walk, number = self._walk, self._walks

        def work(changes: Changes) -> tuple[tuple[int, str] | None, bool, int, list[tuple[Requirement, str]]]:
            if abs(changes.now_us - self._requeued_us) >= _REQUEUE_US:  # the wall clock may be set back
                self._requeued_us = changes.now_us
                for job in changes.tx.recovering_jobs(due_us=changes.now_us):
                    # A job that waits can be cancelled at once, so no process of it may be left.
                    if not gangs.leaves_processes(changes.tx, job):
                        changes.apply(job, n.Requeued())
            unseen = changes.tx.unseen_jobs(limit=PAGE)
            page = changes.tx.waiting_jobs(limit=PAGE, after=walk) if walk else []
            following = (page[-1].priority, page[-1].job.uid) if len(page) == PAGE else None
            seen = {waiting.job.uid for waiting in page}
            waiting = page + [w for w in unseen if w.job.uid not in seen]
            waiting.sort(key=_turn)
            if following is not None:  # a job behind the page waits for the walk: those between come before it
                waiting = [w for w in waiting if _turn(w) <= _turn(page[-1])]
            hopeless = self._place(changes, waiting) if waiting else []
            return following, len(unseen) == PAGE, len(waiting), hopeless

        following, more, self._placed, hopeless = await self._recorder.write(work)
        if self._walks == number:  # else capacity grew meanwhile, and the walk begins anew
            self._walk = following
            for need, why in hopeless:
                self.waits.note(need, why)
        return more or self._walk is not None

    def _place(self, changes: Changes, waiting: list[WaitingJob]) -> list[tuple[Requirement, str]]:
        """Assigns what can be assigned; answers which needs cannot be met now, and why."""
        nodes = changes.tx.nodes()
        free = placement.capacities(nodes, changes.tx.charged_attempts())
        hopeless: dict[tuple[int, float], tuple[Requirement, str]] = {}
        """By the requirement's identity, which jobs with the same share, and what a look at the model has added."""
        pending: dict[str, str] = {}
        for job in waiting:
            need = self._prober.need(job.job.uid, job.requirement)
            key = id(job.requirement), need.device_bytes
            if key not in hopeless and (chosen := placement.place(need, free)) is not None:
                # Also for a job that is looked at first: no more are looked at than could be placed.
                free = [c.less(chosen, job.requirement) for c in free]
                if self._assign(changes, job, chosen):
                    continue
                why = f"checking the model on {chosen.node}"
            else:
                if key not in hopeless:
                    hopeless[key] = need, placement.why_not(need, free)
                why = hopeless[key][1]
            if why != job.pending_reason:
                pending[job.job.uid] = why
        if pending:
            changes.tx.set_pending(pending)
        # A new job may be told what all of its need wait for, but not what only a look at the model can tell.
        return [(need, why) for need, why in hopeless.values() if not need.device_bytes]

    def _effective(self, changes: Changes, waiting: WaitingJob) -> dict[str, Any]:
        """What the job really runs with: fixed the first time that a node is found for it."""
        job = waiting.job
        fixed = changes.tx.effective_spec(job.uid)
        if fixed:
            known: dict[str, Any] = json.loads(fixed)
            return known
        filled = spec.effective(json.loads(waiting.sent), job_id=job.job_id, rules=self._rules)
        changes.tx.set_effective_spec(job.uid, spec.canonical(filled))
        return filled

    def _assign(self, changes: Changes, waiting: WaitingJob, chosen: Placement) -> bool:
        """Writes attempt N+1, which charges the devices; False: its node looks at its model first."""
        job = waiting.job
        if self._prober.must_look(job, self._effective(changes, waiting)):
            changes.told.probe[job.uid] = chosen.node
            return False
        moved = changes.apply(job, n.Assigned(job.attempt + 1, chosen.node))
        for part in _parts(moved.uid, moved.attempt, waiting.requirement, chosen, changes.now_us):
            changes.tx.insert_attempt(part)
            changes.told.wake.add(part.node)
        return True


def _turn(waiting: WaitingJob) -> tuple[int, str]:
    """Sorts by priority, then age."""
    return -waiting.priority, waiting.job.uid


def _parts(uid: str, number: int, need: Requirement, chosen: Placement, now_us: int) -> list[Attempt]:
    """The attempt on each of its nodes, which is one but for a gang."""
    return [
        Attempt(
            job_uid=uid,
            number=number,
            node=share.node,
            devices=share.devices,
            cpus=need.cpus,
            memory_bytes=need.memory_bytes,
            state=AttemptState.ASSIGNED,
            assign_time_us=now_us,
            others=tuple(each.node for each in share.others),
            index=index,
        )
        for index, share in enumerate(chosen.shares)
    ]
