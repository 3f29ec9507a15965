"""The conversation with nodes: what each says is so, against what is wanted of it.

    Sync (whole actual state) ──► judge ──► Wanted: claim these, stop those (and why), these are settled

Only an explicit stop stops anything. An attempt that we do not know is kept and charged by its node; one that its node
does not know, although it claimed it, is lost after two such syncs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controlplane.domain import news as n
from controlplane.domain import placement
from controlplane.domain.attempt import Attempt, AttemptState
from controlplane.domain.job import State
from controlplane.domain.node import AttemptRef, Node, NodeState, Stage, Stop, Sync, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from controlplane.domain.job import Job
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


#: An attempt claimed so recently may be missing from a sync that was sent before.
_SETTLING_US = 10_000_000


class Nodes:
    """Answers syncs, and gives up nodes that are silent."""

    def __init__(self, recorder: Recorder, *, store: Store, clock: Clock, pace: NodePace) -> None:
        self._recorder = recorder
        self._store = store
        self._clock = clock
        self._sync_seconds = pace.sync_interval.total_seconds()
        self._grace_seconds = pace.node_grace.total_seconds()
        self._heard: dict[str, float] = {}
        """Node -> when it last spoke, on our monotonic clock: silence is judged on no other."""
        self._missing: dict[AttemptRef, int] = {}
        """Claimed attempts that their node left out of a sync, and how many times in a row."""

    async def sync(self, said: Sync) -> Wanted:
        """Records what a node says, and answers what is wanted of it."""
        self._heard[said.node] = self._clock.monotonic()
        return await self._recorder.write(lambda changes: self._sync(changes, said))

    def _sync(self, changes: Changes, said: Sync) -> Wanted:
        known = changes.tx.node(said.node)
        if said.incarnation and known is not None:
            if said.incarnation < known.incarnation:
                return Wanted("SUPERSEDED", incarnation=known.incarnation)
            if said.counter <= known.counter:
                return Wanted("NOT_NOW", next_sync_seconds=self._sync_seconds)
        node = _heard(known, said, now_us=changes.now_us)
        if known is None or known.state is not node.state or known.inventory != node.inventory:
            changes.told.capacity = True
        changes.tx.save_node(node)
        claim, stop, settled = self._judge(changes, said)
        return Wanted(
            outcome="APPLIED",
            incarnation=node.incarnation,
            generation=node.generation,
            claim=tuple(claim),
            stop=tuple(stop),
            settled=tuple(settled),
            next_sync_seconds=self._sync_seconds,
        )

    def _judge(self, changes: Changes, said: Sync) -> tuple[list[AttemptRef], list[Stop], list[AttemptRef]]:
        charged = {AttemptRef(a.job_uid, a.number): a for a in changes.tx.charged_on(said.node)}
        there = {status.attempt: status for status in said.attempts}
        jobs = changes.tx.jobs({ref.job_uid for ref in (*charged, *there)})
        others = changes.tx.attempts([ref for ref in there if ref not in charged])
        claim: list[AttemptRef] = []
        stop: list[Stop] = []
        settled: list[AttemptRef] = []
        for ref, attempt in charged.items():
            if ref in there:
                self._missing.pop(ref, None)
            elif attempt.state is AttemptState.ASSIGNED:
                if _current(jobs, attempt):
                    claim.append(ref)
            else:
                self._absent(changes, attempt, jobs.get(ref.job_uid))
        for ref, status in there.items():
            attempt_ = charged.get(ref) or others.get(ref)
            if attempt_ is None or attempt_.node != said.node:
                continue  # a restored database must not end today's training
            if status.stage is Stage.ENDED:
                if self._recorded(changes, ref, said.node) >= status.reports and not attempt_.charged:
                    settled.append(ref)
            elif (why := _why_stop(jobs.get(ref.job_uid), attempt_)) is not None:
                stop.append(Stop(ref, why))
        return claim, stop, settled

    def _recorded(self, changes: Changes, ref: AttemptRef, node: str) -> int:
        row = changes.tx.attempt_nodes([ref], node).get(ref)
        return row.applied if row else 0

    def _absent(self, changes: Changes, attempt: Attempt, job: Job | None) -> None:
        """Its node claimed it, and no longer knows it: after two such syncs its processes count as gone."""
        ref = AttemptRef(attempt.job_uid, attempt.number)
        if changes.now_us - attempt.claim_time_us < _SETTLING_US:
            return
        self._missing[ref] = self._missing.get(ref, 0) + 1
        if self._missing[ref] < 2:
            return
        del self._missing[ref]
        lost = n.Lost(attempt.number, "NODE_LOST", f"node {attempt.node} no longer knows the attempt: its data is gone")
        changes.tx.save_attempt(
            replace(attempt, state=AttemptState.ENDED, end_time_us=changes.now_us, reason=lost.reason)
        )
        changes.told.capacity = True
        if job is not None:
            moved = changes.apply(job, lost)
            changes.told.queue |= moved.state is State.RECOVERING

    def silent(self, nodes: list[Node]) -> set[str]:
        """Nodes that have not spoken for the grace. After our own start each gets a fresh window."""
        now = self._clock.monotonic()
        return {node.name for node in nodes if now - self._heard.setdefault(node.name, now) > self._grace_seconds}

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
        """The loop: gives up silent nodes; their attempts are lost, their devices stay charged."""
        while True:
            await self._clock.sleep(self._sync_seconds)
            await self._recorder.write(self.give_up_silent)

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
            if job is None or (job.granted and job.attempt == attempt.number and not job.terminal):
                continue  # what was granted is rolled forward when the node is back
            # Unclaimed, it can never start: the claim is refused from now on. Claimed, its processes may live.
            state = AttemptState.ENDED if attempt.state is AttemptState.ASSIGNED else AttemptState.LOST
            changes.tx.save_attempt(replace(attempt, state=state, end_time_us=changes.now_us, reason="NODE_LOST"))
            changes.apply(job, n.Lost(attempt.number, "NODE_LOST", f"node {node} has been silent for {seconds}"))
            changes.told.queue = True


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
        return "SUPERSEDED" if attempt.state is not AttemptState.LOST else "LOST"
    if job.state is State.CANCELLING or job.terminal:
        return "CANCELLED" if job.state in {State.CANCELLING, State.CANCELLED} else "SUPERSEDED"
    return "PAUSED" if job.state is State.PAUSING else None
