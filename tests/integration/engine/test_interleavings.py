"""A thousand random courses of one job: cancels, commits, claims, reports and losses, several at a time.

Invariants 3, 4 and 5: one terminal state along the table's edges, at most one grant, events without a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
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
        self.sent = {}
        self.granted = set()

    async def begin(self):
        for agent in self.agents.values():
            await agent.sync()
        async with self.here.loops("submissions"):
            made = await self.here.submissions.submit(Asked(spec(self.job_id), "default"))
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
            await self.here.recorder.write(self.here.nodes.give_up_silent)
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
        attempt = await self.here.attempt(ref)
        if attempt.state is AttemptState.ASSIGNED:
            return  # its node has not even got the spec
        self.sent[ref] = number = self.sent.get(ref, 0) + 1
        output = Output("file:///out/", "d1", ()) if kind == "published" else None
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


@pytest.mark.parametrize("quarter", range(4))
def test_a_thousand_interleavings_have_one_end_one_grant_and_no_gap(quarter):
    numbers = itertools.count()
    ends = dict.fromkeys(TERMINAL, 0)
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        context = world(Path(directory))
        here = runner.run(context.__aenter__())

        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(COURSES)
        def follows(course):
            async def run():
                job = Course(here, f"j{next(numbers)}")
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
