"""Placing waiting jobs: in order, nobody held back, nothing promised twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest

from controlplane.domain import news as n
from controlplane.domain.job import Requirement, State
from controlplane.domain.node import AttemptRef
from controlplane.engine import dispatcher
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from controlplane.engine.preparing import Asked
from tests.support import builders
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, spec, world


async def all_rounds(here):
    while await here.dispatcher.round():
        pass


async def placed(here):
    """Job names in the order of their attempts' assignment (attempts of one round by event order)."""
    charged = await here.store.read(lambda tx: tx.charged_attempts())
    jobs = await here.store.read(lambda tx: tx.jobs({a.job_uid for a in charged}))
    return {jobs[a.job_uid].job_id for a in charged}


async def submit_all(here, *specs):
    async with here.loops("submissions"):
        return [await here.submissions.submit(Asked(each, "default")) for each in specs]


def cpus(count, **more):
    return {"resources": {"cpus": count} | more}


@in_virtual_time
async def test_the_higher_priority_is_first_and_among_equals_the_older(tmp_path):
    async with world(tmp_path) as here:
        await Agent(here, cpus=2).sync()
        await submit_all(here, spec("old"), spec("older", priority=10), spec("first", priority=90), spec("new"))
        await all_rounds(here)
        assert await placed(here) == {"first", "old"}


@in_virtual_time
async def test_a_job_that_cannot_be_placed_says_why_and_holds_nobody_back(tmp_path):
    async with world(tmp_path) as here:
        await Agent(here, cpus=2).sync()
        await submit_all(
            here,
            spec("huge", priority=100, **cpus(64)),
            spec("gpu", priority=90, **cpus(1, gpus=4, gpu_type="A100")),
            spec("elsewhere", placement={"node": "moon"}),
            spec("small"),
            spec("waits", **cpus(2)),
        )
        await all_rounds(here)
        assert await placed(here) == {"small"}
        reasons = {
            name: (await here.jobs.get(name, project="default")).record.pending_reason
            for name in ("huge", "gpu", "elsewhere", "waits", "small")
        }
        assert reasons["gpu"] == "needs 4 x A100; no node has A100"
        assert "no node has both" in reasons["huge"]
        assert "node moon" in reasons["elsewhere"]
        assert "with at most 1 CPUs" in reasons["waits"]
        assert reasons["small"] == ""


@in_virtual_time
async def test_without_a_node_it_says_so_and_a_node_that_joins_gets_the_job_at_once(tmp_path):
    async with world(tmp_path) as here:
        await here.submit("j")
        async with here.loops("dispatcher", "wakes"):
            await asyncio.sleep(2)
            assert (await here.jobs.get("j", project="default")).record.pending_reason.endswith("no node has joined")
            await Agent(here).sync()
            await asyncio.sleep(0.01)
            assert (await here.job("j")).state is State.STARTING
            assert here.bus.wakes == ["gpu-01"]


@in_virtual_time
async def test_a_recovering_job_is_queued_again_when_it_is_due_and_not_before(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await here.placed("j", agent)
        await agent.report(ref, 1, n.Started(1), n.Failed(1, "TRAINER_CRASHED", "boom"))
        async with here.loops("dispatcher"):
            await asyncio.sleep(1.5)
            assert (await here.job("j")).state is State.RECOVERING
            await asyncio.sleep(2.5)
            job = await here.job("j")
            assert (job.state, job.attempt) == (State.STARTING, 2)


@in_virtual_time
async def test_a_wall_clock_that_is_set_back_does_not_stop_the_requeueing(tmp_path):
    async with world(tmp_path) as here, here.loops("dispatcher"):
        agent = Agent(here)
        await agent.sync()
        await asyncio.sleep(5)
        here.clock.wall_seconds = -3600
        ref = await here.placed("j", agent)
        await agent.report(ref, 1, n.Started(1), n.Stopped(1, ""))
        await asyncio.sleep(3)
        assert (await here.job("j")).attempt == 2


async def fill(here, count, *, priority=50, cpus=1):
    """Many waiting jobs, quickly."""
    sent = json.dumps(spec("x"))
    made = [builders.new_job(priority=priority, requirement=Requirement(cpus=cpus), sent=sent) for _ in range(count)]
    await here.store.write(lambda tx: tx.insert_jobs(made))
    return [new.job.uid for new in made]


@in_virtual_time
async def test_the_walk_over_more_than_a_page_keeps_the_order_also_for_jobs_that_are_new(tmp_path):
    """A new job of low priority must not overtake those of the second page while the walk is on the first."""
    async with world(tmp_path) as here:
        first = await fill(here, dispatcher.PAGE, priority=90, cpus=8)
        second = await fill(here, 3, priority=60)
        await all_rounds(here)  # all are seen: no node
        await fill(here, 1, priority=10)
        await Agent(here, cpus=3).sync()
        await all_rounds(here)
        charged = await here.store.read(lambda tx: tx.charged_attempts())
        assert {a.job_uid for a in charged} == set(second)
        assert not set(first) & {a.job_uid for a in charged}


@in_virtual_time
async def test_every_one_of_three_pages_is_looked_at(tmp_path):
    async with world(tmp_path) as here:
        await fill(here, 2 * dispatcher.PAGE + 7)
        agent = Agent(here, cpus=2 * dispatcher.PAGE + 5)
        agent.inventory = replace(agent.inventory, memory_bytes=1 << 50)
        await agent.sync()
        await all_rounds(here)
        waiting = await here.store.read(lambda tx: tx.waiting_jobs(limit=5000))
        assert len(waiting) == 2
        assert all(w.pending_reason for w in waiting)


@in_virtual_time
async def test_capacity_that_grows_in_mid_walk_begins_the_walk_anew(tmp_path):
    async with world(tmp_path) as here:
        big = await fill(here, 1, priority=90, cpus=8)
        await fill(here, 2 * dispatcher.PAGE, priority=50, cpus=16)
        await Agent(here, cpus=4).sync()
        assert await here.dispatcher.round()  # the walk is on its second page
        await Agent(here, "gpu-02", cpus=8).sync()
        await all_rounds(here)
        charged = await here.store.read(lambda tx: tx.charged_attempts())
        assert [a.job_uid for a in charged] == big


@in_virtual_time
async def test_capacity_that_grows_while_a_round_is_being_committed_is_not_forgotten(tmp_path):
    async with world(tmp_path) as here:
        await fill(here, 1, cpus=8)
        round_ = asyncio.ensure_future(here.dispatcher.round())
        await asyncio.sleep(0)
        here.dispatcher.capacity_grew()
        assert await round_  # another must follow
        assert here.dispatcher._walk is not None


@in_virtual_time
async def test_a_lost_hint_costs_at_most_half_a_minute(tmp_path):
    async with world(tmp_path) as here:
        await fill(here, 1)
        async with here.loops("dispatcher"):
            await asyncio.sleep(5)
            # A node that appears in SQL without an announcement: committed by a process that died before telling.
            await here.store.write(lambda tx: tx.save_node(builders.node()))
            await asyncio.sleep(35)
            assert len(await here.store.read(lambda tx: tx.charged_attempts())) == 1


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OutcomeUnknown("lost")])
def test_a_database_that_is_away_only_delays(tmp_path, error):
    @in_virtual_time
    async def run():
        async with world(tmp_path) as here:
            await Agent(here).sync()
            await here.submit("j")
            here.store.fails_writing = error
            async with here.loops("dispatcher", "watchdog") as died:
                await asyncio.sleep(20)
                assert not died.done()
                here.store.fails_writing = None
                await asyncio.sleep(2)
                assert (await here.job("j")).state is State.STARTING

    run()


@in_virtual_time
async def test_devices_are_promised_once_whatever_runs_twice(tmp_path):
    async with world(tmp_path) as here:
        await Agent(here, gpus=2).sync()
        here.store.twice = True
        await submit_all(here, *(spec(f"j{i}", **cpus(1, gpus=1)) for i in range(5)))
        await asyncio.gather(all_rounds(here), all_rounds(here))
        charged = await here.store.read(lambda tx: tx.charged_attempts())
        assert Counter(d for a in charged for d in a.devices) == {0: 1, 1: 1}


@in_virtual_time
async def test_the_first_placement_fixes_what_really_runs(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await here.placed("j", agent)
        fixed = await here.store.read(lambda tx: tx.effective_spec(ref.job_uid))
        assert (await here.jobs.get("j", project="default")).effective == json.loads(fixed)
        assert ref == AttemptRef(ref.job_uid, 1)


@in_virtual_time
async def test_a_job_whose_reason_to_wait_is_known_is_stored_with_it_and_not_looked_at_again(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        first, second = (spec(name, **cpus(1, gpus=2)) for name in ("first", "second"))
        made = await here.submissions.submit(Asked(first, "default"))
        assert made.record.pending_reason == ""
        await all_rounds(here)
        why = (await here.jobs.get("first", project="default")).record.pending_reason
        assert why
        made = await here.submissions.submit(Asked(second, "default"))
        assert made.record.pending_reason == why
        assert (await here.jobs.get("second", project="default")).record.pending_reason == why
        assert not await here.store.read(lambda tx: tx.unseen_jobs(limit=10))


@in_virtual_time
async def test_a_job_that_was_stored_with_a_reason_is_placed_when_capacity_grows(tmp_path):
    async with world(tmp_path) as here:
        for name in ("first", "second"):
            await submit_all(here, spec(name, **cpus(1, gpus=2)))
            await all_rounds(here)
        await Agent(here, gpus=4).sync()
        await all_rounds(here)
        assert await placed(here) == {"first", "second"}
        assert here.dispatcher.waits.why(Requirement(gpus=2)) == ""


class GrowingStore:
    """Capacity grows, and the queue is walked, between a submit's look at the known reasons and its commit."""

    def __init__(self, here) -> None:
        self._here = here

    async def write(self, work):
        self._here.dispatcher.capacity_grew()
        await all_rounds(self._here)
        return await self._here.store.write(work)


@in_virtual_time
async def test_capacity_that_grows_while_a_job_is_stored_with_a_reason_is_not_missed(tmp_path):
    async with world(tmp_path) as here, here.loops("submissions"):
        await here.submissions.submit(Asked(spec("first", **cpus(1, gpus=2)), "default"))
        await all_rounds(here)
        here.submissions._store = GrowingStore(here)
        made = await here.submissions.submit(Asked(spec("second", **cpus(1, gpus=2)), "default"))
        assert made.record.pending_reason
        assert here.dispatcher._walk is not None
