"""The conversation with nodes: what each says is so, against what is wanted of it.

    Sync (whole actual state) ──► judge ──► Wanted: claim these, stop those (and why), these are settled

Only an explicit stop stops anything. An attempt that we do not know is kept and charged by its node; one that its node
does not know, although it claimed it, is lost after two such syncs.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from controlplane.domain import news as n
from controlplane.domain import placement
from controlplane.domain.attempt import Attempt, AttemptState
from controlplane.domain.job import State
from controlplane.domain.node import AttemptRef, Node, NodeState, Stage, Stop, Sync, Wanted
from controlplane.engine import gangs
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controlplane.domain.job import Job
    from controlplane.domain.node import AttemptStatus
    from controlplane.engine.changes import Changes, Recorder
    from controlplane.engine.ports import Clock, Store, Transaction


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with what is taken of it."""

    node: Node
    holders: Mapping[int, str]
    """Device index -> the job's name."""
    cpus_free: int
    memory_bytes_free: int


@dataclass(frozen=True, slots=True)
class NodePace:
    """How often nodes speak, and how long one may be silent."""

    sync_interval: timedelta
    node_grace: timedelta
    gang_patience: timedelta = timedelta(seconds=60)
    """How long a gang's nodes may take until all of them have asked for their part."""


@dataclass(slots=True)
class _Judgement:
    """What is wanted of a node's attempts."""

    claim: list[AttemptRef] = field(default_factory=list)
    stop: list[Stop] = field(default_factory=list)
    settled: list[AttemptRef] = field(default_factory=list)


#: An attempt claimed so recently may be missing from a sync that was sent before.
_SETTLING_US = 10_000_000


class Nodes:
    """Answers syncs, and gives up nodes that are silent."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        store: Store,
        clock: Clock,
        pace: NodePace,
        listening: Callable[[], bool] = lambda: True,
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._clock = clock
        self._sync_seconds = pace.sync_interval.total_seconds()
        self._grace_seconds = pace.node_grace.total_seconds()
        self._gang_patience_seconds = pace.gang_patience.total_seconds()
        self._listening = listening
        """Whether what nodes say can reach us."""
        self._heard: dict[str, float] = {}
        """Node -> when it last spoke, on our monotonic clock: silence is judged on no other."""
        self._window = clock.monotonic()
        """Silence before this is nobody's: we were not there to hear."""
        self._newest: dict[str, int] = {}
        """Node -> the newest incarnation of its agent that we know of."""
        self._keys: dict[str, bytes] = {}
        """Node -> its agent's public key, as it last said. Not stored: the next sync says it again."""
        self._missing: dict[str, frozenset[AttemptRef]] = {}
        """Node -> claimed attempts that it left out of its last sync."""

    async def sync(self, said: Sync) -> Wanted:
        """Records what a node says, and answers what is wanted of it."""
        if not 0 < said.incarnation < self._newest.get(said.node, 0):  # an older agent's voice is not the node's
            # At receipt, because a database that is slow or away makes no node silent.
            self._heard[said.node] = self._clock.monotonic()
        missing: set[AttemptRef] = set()

        def work(changes: Changes) -> Wanted:
            missing.clear()
            return self._sync(changes, said, missing)

        wanted = await self._recorder.write(work)
        if wanted.outcome == "APPLIED":
            self._missing[said.node] = frozenset(missing)
            self._keys[said.node] = said.public_key
        if wanted.incarnation:
            self._newest[said.node] = wanted.incarnation
        return wanted

    def public_key(self, node: str) -> bytes:
        """What a message to a node is sealed to; empty: it has not said since this process began, or is too old to."""
        return self._keys.get(node, b"")

    def _sync(self, changes: Changes, said: Sync, missing: set[AttemptRef]) -> Wanted:
        known = changes.tx.node(said.node)
        if said.incarnation and known is not None:
            if said.incarnation < known.incarnation:
                return Wanted("SUPERSEDED", incarnation=known.incarnation)
            if said.incarnation == known.incarnation and said.counter <= known.counter:
                return Wanted("NOT_NOW", next_sync_seconds=self._sync_seconds)
        node = _heard(known, said, now_us=changes.now_us)
        if known is None or known.state is not node.state or known.inventory != node.inventory:
            changes.told.capacity = True
        changes.tx.save_node(node)
        found = self._judge(changes, said, missing)
        return Wanted(
            outcome="APPLIED",
            incarnation=node.incarnation,
            generation=node.generation,
            claim=tuple(found.claim),
            stop=tuple(found.stop),
            settled=tuple(found.settled),
            next_sync_seconds=self._sync_seconds,
        )

    def _judge(self, changes: Changes, said: Sync, missing: set[AttemptRef]) -> _Judgement:
        charged = {AttemptRef(a.job_uid, a.number): a for a in changes.tx.charged_on(said.node)}
        there = {status.attempt: status for status in said.attempts}
        jobs = changes.tx.jobs({ref.job_uid for ref in (*charged, *there)})
        others = changes.tx.attempts_on(said.node, [ref for ref in there if ref not in charged])
        found = _Judgement()
        for ref, attempt in charged.items():
            if ref in there:
                continue
            if attempt.state is AttemptState.ASSIGNED:
                if _current(jobs, attempt):
                    found.claim.append(ref)
            elif changes.now_us - attempt.claim_time_us < _SETTLING_US:
                continue
            elif ref in self._missing.get(said.node, ()):
                _give_up(changes, attempt, jobs.get(ref.job_uid), "no longer knows the attempt: its data is gone")
            else:
                missing.add(ref)
        for ref, status in there.items():
            attempt_ = charged.get(ref) or others.get(ref)
            if attempt_ is not None:  # else a restored database: it is kept
                self._judge_known(changes, status, attempt_, job=jobs.get(ref.job_uid), found=found)
        return found

    def _judge_known(
        self, changes: Changes, status: AttemptStatus, attempt: Attempt, *, job: Job | None, found: _Judgement
    ) -> None:
        """What is wanted of an attempt that its node has."""
        if status.stage is not Stage.ENDED:
            if (why := _why_stop(job, attempt)) is not None:
                found.stop.append(Stop(status.attempt, why))
        elif self._recorded(changes, status.attempt, attempt.node) >= status.reports:
            if not attempt.charged:
                found.settled.append(status.attempt)
            elif attempt.state is not AttemptState.ASSIGNED:
                _give_up(changes, attempt, job, "ended it without a last report that can be read")

    def _recorded(self, changes: Changes, ref: AttemptRef, node: str) -> int:
        row = changes.tx.attempt_nodes([ref], node).get(ref)
        return row.applied if row else 0

    def silent(self, nodes: list[Node]) -> set[str]:
        """Nodes that have not spoken for the grace. After our own start or absence each gets a fresh window."""
        now = self._clock.monotonic()
        return {
            node.name
            for node in nodes
            if now - max(self._heard.get(node.name, self._window), self._window) > self._grace_seconds
        }

    async def page(self) -> list[NodeView]:
        """Every node, by name."""

        def work(tx: Transaction) -> list[NodeView]:
            charged = tx.charged_attempts()
            jobs = tx.jobs({attempt.job_uid for attempt in charged})
            held: dict[str, dict[int, str]] = {}
            for attempt in charged:
                name = jobs[attempt.job_uid].job_id if attempt.job_uid in jobs else attempt.job_uid
                held.setdefault(attempt.node, {}).update(dict.fromkeys(attempt.devices, name))
            return [
                NodeView(free.node, held.get(free.node.name, {}), free.cpus, free.memory_bytes)
                for free in placement.capacities(tx.nodes(), charged)
            ]

        return await self._store.read(work)

    async def any_ready(self) -> bool:
        """Whether some node takes jobs."""
        nodes = await self._store.read(lambda tx: tx.nodes())
        return any(node.state is NodeState.READY and node.name in self._heard for node in nodes)

    async def watch(self) -> None:
        """The loop: gives up silent nodes; their attempts are lost, their devices stay charged.

        Nobody is given up for what kept us from hearing: NATS away, or this process stopped. A third of the grace (one
        sync of the three that fit in it) is forgiven without a fresh window.
        """
        looked = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._sync_seconds)
            before, looked = looked, self._clock.monotonic()
            if not self._listening() or looked - before > self._sync_seconds + self._grace_seconds / 3:
                self._window = looked
            with contextlib.suppress(StoreUnavailable, OutcomeUnknown):  # the next look finds the same
                await self._recorder.write(self.give_up)

    def give_up(self, changes: Changes) -> None:
        """One look at all nodes, and at gangs that are not complete."""
        self.give_up_silent(changes)
        if self._clock.monotonic() - self._window > self._gang_patience_seconds:  # else we were not there to be asked
            gangs.give_up_incomplete(changes, patience_us=int(self._gang_patience_seconds * 1e6))

    def give_up_silent(self, changes: Changes) -> None:
        """One look at all nodes."""
        nodes = changes.tx.nodes()
        silent = self.silent(nodes)
        for node in nodes:
            if node.name not in silent:
                continue
            if node.state is not NodeState.NOT_READY or node.reason != "SILENT":
                changes.tx.save_node(replace(node, state=NodeState.NOT_READY, reason="SILENT"))
            self._lose(changes, node.name)

    def _lose(self, changes: Changes, node: str) -> None:
        seconds = f"{self._grace_seconds:g} s"
        charged = [a for a in changes.tx.charged_on(node) if a.state is not AttemptState.LOST]
        jobs = changes.tx.jobs({a.job_uid for a in charged})
        for attempt in charged:
            job = jobs.get(attempt.job_uid)
            if job is None or (
                job.granted and job.attempt == attempt.number and not job.terminal and not attempt.index
            ):
                continue  # what was granted is rolled forward when the node is back
            if attempt.state is AttemptState.ASSIGNED:
                # Unclaimed, it can never start: the claim is refused from now on. Claimed, its processes may live.
                gangs.end_unclaimed(changes, attempt, reason="NODE_LOST")
            else:
                lost = replace(attempt, state=AttemptState.LOST, end_time_us=changes.now_us, reason="NODE_LOST")
                changes.tx.save_attempt(lost)
            _tell(
                changes, job, attempt, n.Lost(attempt.number, "NODE_LOST", f"node {node} has been silent for {seconds}")
            )
            changes.told.queue = True


def _tell(changes: Changes, job: Job, attempt: Attempt, news: n.Lost | n.Failed) -> Job:
    """Applies a node's end to its job; of a gang, as far as it is the job's business."""
    job = changes.newest(job)  # another node of the gang may have ended in this transaction
    told = gangs.to_job(changes, job, attempt, news) if attempt.gang else news
    return job if told is None else changes.apply(job, told)


def _give_up(changes: Changes, attempt: Attempt, job: Job | None, why: str) -> None:
    """Nothing of it is left on its node, and its end was not told: its devices are free, its job recovers."""
    current = job is not None and job.attempt == attempt.number and not attempt.index
    # What was granted may be published, or lie there half: nobody else may publish any more.
    reason = "ARTIFACTS_LOST" if current and job is not None and job.granted else "NODE_LOST"
    message = f"node {attempt.node} {why}"
    changes.tx.save_attempt(
        replace(attempt, state=AttemptState.ENDED, end_time_us=attempt.end_time_us or changes.now_us, reason=reason)
    )
    changes.told.capacity = True
    if job is not None:
        news = n.Failed if reason == "ARTIFACTS_LOST" else n.Lost
        moved = _tell(changes, job, attempt, news(attempt.number, reason, message))
        changes.told.queue |= moved.state is State.RECOVERING


def _heard(known: Node | None, said: Sync, *, now_us: int) -> Node:
    """The node as it is after this sync; a first sync of an agent gets the next incarnation."""
    bad = said.inventory.not_ready_reason
    draining = known is not None and known.state is NodeState.DRAINING
    state = NodeState.DRAINING if draining else NodeState.NOT_READY if bad else NodeState.READY
    return Node(
        name=said.node,
        state=state,
        reason=bad or (known.reason if known is not None and draining else ""),
        inventory=said.inventory,
        agent_version=said.agent_version,
        host_boot_id=said.host_boot_id,
        incarnation=said.incarnation or (known.incarnation if known else 0) + 1,
        counter=said.counter,
        generation=(known.generation if known else 0) + 1,
        last_sync_time_us=now_us,
    )


def _current(jobs: Mapping[str, Job], attempt: Attempt) -> bool:
    """Whether the attempt is the one that its job waits for."""
    job = jobs.get(attempt.job_uid)
    return job is not None and job.attempt == attempt.number and job.state is State.STARTING


def _why_stop(job: Job | None, attempt: Attempt) -> str | None:
    """Why an attempt that lives must not; None: it may."""
    if job is None or not attempt.charged:
        return None  # its node has told its end already: this sync was sent before
    if job.attempt != attempt.number or job.state in {State.QUEUED, State.RECOVERING, State.PAUSED}:
        return "LOST" if attempt.state is AttemptState.LOST else gangs.PEER_ENDED if attempt.gang else "SUPERSEDED"
    if attempt.index and (job.state is State.SUCCEEDED or (job.state is State.RUNNING and gangs.trained(job))):
        return gangs.FINISHED
    if job.state is State.CANCELLING or job.terminal:
        return "CANCELLED" if job.state in {State.CANCELLING, State.CANCELLED} else "SUPERSEDED"
    return "PAUSED" if job.state is State.PAUSING else None
