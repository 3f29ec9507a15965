"""A thousand random courses of one job: cancels, commits, claims, reports and losses, several at a time.

Invariants 3, 4 and 5: one terminal state along the table's edges, at most one grant, events without a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.domain import news as n
from controlplane.domain.attempt import AttemptState
from controlplane.domain.errors import DomainError
from controlplane.domain.job import TERMINAL, Progress, State
from controlplane.domain.lifecycle import EDGES
from controlplane.domain.node import AttemptRef, Stage
from controlplane.engine.preparing import Asked
from controlplane.engine.requests import Output
from tests.support.clock import VirtualLoop
from tests.support.world import Agent, alive, spec, world

#: What may happen; the number is the attempt's node, for what comes from a node.
STEPS = st.sampled_from(
    ["cancel", "dispatch", "silence", "time"]
    + [
        f"{kind} {node}"
        for kind in ("claim", "claim again", "sync", "absent", "commit", "commit other")
        for node in (1, 2)
    ]
    + [
        f"{kind} {node}"
        for kind in ("started", "progress", "finished", "published", "failed", "stopped")
        for node in (1, 2)
    ]
)
COURSES = st.lists(st.lists(STEPS, min_size=1, max_size=3), min_size=3, max_size=12)


class Course:
    """One job on two nodes, and what is done to it."""

    def __init__(self, here, job_id):
        self.here = here
        self.job_id = job_id
        self.agents = {1: Agent(here, "n1", cpus=1), 2: Agent(here, "n2", cpus=1)}
        self.asked = {}
        self.sent = {}
        self.granted = set()

    async def begin(self):
        for agent in self.agents.values():
            await agent.sync()
        async with self.here.loops("submissions"):
            made = await self.here.submissions.submit(Asked(spec(self.job_id, **self.asked), "default"))
        self.uid = made.record.job.uid
        await self.here.dispatcher.round()

    async def ref(self, node):
        """The newest attempt on a node, if any."""

        def work(tx):
            numbers = range(tx.job(self.uid).attempt, 0, -1)
            return next((r for r in map(self.named, numbers) if tx.attempt(*r).node == f"n{node}"), None)

        found = await self.here.store.read(work)
        return AttemptRef(*found) if found else None

    def named(self, number):
        return self.uid, number

    async def do(self, step):
        with contextlib.suppress(DomainError):  # refused in words
            await self._do(step)

    async def _do(self, step):
        kind, _, node = step.rpartition(" ")
        if step == "cancel":
            await self.here.jobs.cancel(self.job_id, project="default")
        elif step == "dispatch":
            self.here.dispatcher.capacity_grew()
            await self.here.dispatcher.round()
        elif step == "silence":
            self.here.clock.jump(40)
            await self.here.recorder.write(self.here.nodes.give_up)
        elif step == "time":
            self.here.clock.jump(70)
            for agent in self.agents.values():
                await agent.sync()
        else:
            ref = await self.ref(int(node))
            if ref is not None:
                await self._of_attempt(kind, ref, self.agents[int(node)])

    async def _of_attempt(self, kind, ref, agent):
        if kind in {"claim", "claim again"}:
            await agent.claim(ref, (b"a" if kind == "claim" else b"b") * 16)
        elif kind == "sync":
            await agent.sync(alive(ref))
        elif kind == "absent":
            await agent.sync()
            await agent.sync()
        elif kind in {"commit", "commit other"}:
            digest = "d1" if kind == "commit" else "d2"
            if (await agent.commit(ref, digest)).outcome == "GRANTED":
                self.granted.add((ref.number, digest))
        else:
            await self._report(kind, ref, agent)

    async def _report(self, kind, ref, agent):
        news = {
            "started": n.Started(ref.number),
            "progress": n.Progressed(ref.number, Progress(1, 2)),
            "finished": n.Finished(ref.number),
            "published": n.Published(ref.number),
            "failed": n.Failed(ref.number, "TRAINER_CRASHED", "boom"),
            "stopped": n.Stopped(ref.number, "CANCELLED"),
        }[kind]
        output = Output("file:///out/", "d1", ()) if kind == "published" else None
        await self._reported(ref, agent, news, output)

    async def _reported(self, ref, agent, news, output):
        attempt = await self.here.attempt(ref)
        if attempt.state is AttemptState.ASSIGNED:
            return  # its node has not even got the spec
        self.sent[ref] = number = self.sent.get(ref, 0) + 1
        await agent.report(ref, number, news, output=output)
        await agent.report(ref, number, news, output=output)  # the answer was lost

    async def check(self):
        events = await self.here.jobs.events(self.job_id, project="default", after=0, limit=1000)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        states = [State(json.loads(event.json)["data"]["state"]) for event in events]
        for before, after in itertools.pairwise(states):
            assert before is after or after in EDGES[before]
        assert sum(state in TERMINAL for state in states) <= 1
        job = await self.here.job(self.job_id)
        assert (job.state, job.last_sequence) == (states[-1], len(events))
        assert len({number for number, _ in self.granted}) <= 1
        assert len(self.granted) <= 1
        if job.state is State.SUCCEEDED:
            assert {digest for _, digest in self.granted} == {"d1"}
        await self.ends(job)

    async def ends(self, job):
        """Whatever happened, the job can still be brought to an end, and nothing stays charged."""
        for node, agent in self.agents.items():
            refs = [AttemptRef(self.uid, number) for number in range(1, job.attempt + 1)]
            mine = [ref for ref in refs if (await self.here.attempt(ref)).node == f"n{node}"]
            await self.do("cancel")
            self.here.clock.jump(60)
            await agent.sync(*(alive(ref, Stage.ENDED, reports=self.sent.get(ref, 0)) for ref in mine))
            await agent.sync()
            await agent.sync()
        await self.do("cancel")
        assert (await self.here.job(self.job_id)).terminal
        assert await self.here.store.read(lambda tx: tx.charged_attempts()) == []


class GangCourse(Course):
    """A job that two nodes have to train together, and what is done to it."""

    def __init__(self, here, job_id):
        super().__init__(here, job_id)
        self.agents = {number: Agent(here, f"{job_id}-{number}", gpus=2) for number in (1, 2)}
        self.asked = {"resources": {"gpus": 4}, "placement": {"labels": {"job": job_id}}}
        for agent in self.agents.values():
            agent.inventory = replace(agent.inventory, labels={"job": job_id})
        self.gone = set()
        """(attempt, node) of which the node has said that nothing is left."""
        self.without = set()
        """Nodes that last said that they have no attempt: said twice, it is believed."""

    async def ref(self, node):
        number = (await self.here.job(self.job_id)).attempt
        return AttemptRef(self.uid, number) if number else None

    async def part(self, ref, agent):
        return (await self.here.store.read(lambda tx: tx.attempts_on(agent.node, [ref]))).get(ref)

    async def _do(self, step):
        await super()._do(step)
        if step != "time":
            return
        attempts = (await self.here.job(self.job_id)).attempt
        for agent in self.agents.values():
            if agent.node in self.without:
                self.gone.update((AttemptRef(self.uid, number), agent.node) for number in range(1, attempts + 1))
            self.without.add(agent.node)

    async def _of_attempt(self, kind, ref, agent):
        if kind in {"absent", "failed", "stopped", "published"}:
            self.gone.add((ref, agent.node))
        if kind in {"sync", "absent"}:
            (self.without.discard if kind == "sync" else self.without.add)(agent.node)
        await super()._of_attempt(kind, ref, agent)

    async def _reported(self, ref, agent, news, output):
        part = await self.part(ref, agent)
        if part.state is AttemptState.ASSIGNED or not part.claim_time_us:
            return  # its node has not even got the spec
        self.sent[ref, agent.node] = number = self.sent.get((ref, agent.node), 0) + 1
        await agent.report(ref, number, news, output=output)

    async def ends(self, job):
        for number in range(1, job.attempt + 1):
            for part in await self.here.store.read(lambda tx, number=number: tx.parts(self.uid, number)):
                ref = AttemptRef(self.uid, number)
                if part.claim_time_us and part.state is AttemptState.ENDED:
                    assert (ref, part.node) in self.gone  # invariant 6: by its node's word alone
                if job.state is State.CANCELLED:
                    assert part.state is not AttemptState.CLAIMED  # invariant 7
        await self.do("cancel")
        for agent in self.agents.values():
            self.here.clock.jump(60)
            refs = [AttemptRef(self.uid, number) for number in range(1, job.attempt + 1)]
            await agent.sync(*(alive(ref, Stage.ENDED, reports=self.sent.get((ref, agent.node), 0)) for ref in refs))
            await agent.sync()
            await agent.sync()
        await self.do("cancel")
        assert (await self.here.job(self.job_id)).terminal
        left = await self.here.store.read(lambda tx: tx.charged_attempts())
        assert [part for part in left if part.job_uid == self.uid] == []


@pytest.mark.parametrize(("course_of", "part"), [*((Course, part) for part in range(4)), (GangCourse, 0)])
def test_a_thousand_interleavings_have_one_end_one_grant_and_no_gap(course_of, part):
    numbers = itertools.count()
    ends = dict.fromkeys(TERMINAL, 0)
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        context = world(Path(directory))
        here = runner.run(context.__aenter__())

        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(COURSES)
        def follows(course):
            async def run():
                job = course_of(here, f"j{next(numbers)}")
                await job.begin()
                for together in course:
                    await asyncio.gather(*(job.do(step) for step in together))
                await job.check()
                ends[(await here.job(job.job_id)).state] += 1

            runner.run(run())

        follows()
        runner.run(context.__aexit__(None, None, None))
    assert ends[State.CANCELLED] > 0
    assert sum(ends.values()) >= 250
