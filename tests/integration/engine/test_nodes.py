"""The conversation with nodes: who speaks, what is wanted, and when silence means loss."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from controlplane.domain import news as n
from controlplane.domain.attempt import AttemptState
from controlplane.domain.job import State
from controlplane.domain.node import AttemptRef, Stage, Stop
from controlplane.engine.nodes import Nodes
from controlplane.engine.ports import StoreUnavailable
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, alive, world


async def started(here, agent, job_id="j", **blocks):
    ref = await here.placed(job_id, agent, **blocks)
    await agent.report(ref, 1, n.Started(1))
    return ref


async def speaking(agent, *attempts, seconds, every=3.0):
    for _ in range(int(seconds / every)):
        await agent.sync(*attempts)
        await asyncio.sleep(every)


async def node_state(here, name="gpu-01"):
    node = await here.store.read(lambda tx: tx.node(name))
    return node.state.value, node.reason


# who speaks


@in_virtual_time
async def test_a_newer_agent_of_the_same_name_fences_the_older_one(tmp_path):
    async with world(tmp_path) as here:
        old, new = Agent(here), Agent(here)
        assert (await old.sync()).incarnation == 1
        assert (await new.sync()).incarnation == 2
        assert (await old.sync()).outcome == "SUPERSEDED"
        assert (await new.sync()).outcome == "APPLIED"


@in_virtual_time
async def test_a_message_that_comes_late_or_twice_changes_nothing(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        await agent.sync(counter=10)
        agent.inventory = replace(agent.inventory, cpus=1)
        assert (await agent.sync(counter=9)).outcome == "NOT_NOW"
        assert (await agent.sync(counter=10)).outcome == "NOT_NOW"
        assert (await here.store.read(lambda tx: tx.node("gpu-01"))).inventory.cpus == 8
        assert (await agent.sync(counter=11)).outcome == "APPLIED"


@in_virtual_time
async def test_after_a_restored_database_an_agent_s_own_numbers_count(tmp_path):
    """Yesterday's SQL knows an older incarnation with a higher counter than today's agent has."""
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync(counter=5000)
        agent.incarnation, agent.counter = 4, 100
        wanted = await agent.sync()
        assert (wanted.outcome, wanted.incarnation) == ("APPLIED", 4)


@in_virtual_time
async def test_generations_grow_so_that_older_replies_can_be_told(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        assert [(await agent.sync()).generation for _ in range(3)] == [1, 2, 3]


@in_virtual_time
async def test_a_node_that_says_why_it_is_not_ready_gets_no_job(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        agent.inventory = replace(agent.inventory, not_ready_reason="disk full")
        await agent.sync()
        assert await node_state(here) == ("NOT_READY", "disk full")
        await here.submit("j")
        assert not await here.dispatcher.round()
        agent.inventory = replace(agent.inventory, not_ready_reason="")
        await agent.sync()
        while await here.dispatcher.round():
            pass
        assert (await here.job("j")).state is State.STARTING


# what is wanted


@in_virtual_time
async def test_an_assigned_attempt_is_to_be_claimed_until_it_is_there(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        made = await here.submit("j")
        while await here.dispatcher.round():
            pass
        ref = AttemptRef(made.record.job.uid, 1)
        assert (await agent.sync()).claim == (ref,)
        assert (await agent.sync()).claim == (ref,)
        assert (await agent.sync(alive(ref, Stage.CLAIMING))).claim == ()
        assert (await Agent(here, "gpu-02").sync()).claim == ()


@in_virtual_time
async def test_an_attempt_left_out_twice_is_lost_and_its_devices_are_free(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        await agent.sync()  # too soon after the claim: it was on its way
        await agent.sync()
        assert (await here.job("j")).state is State.RUNNING
        await asyncio.sleep(11)
        await agent.sync()
        assert (await here.job("j")).state is State.RUNNING
        await agent.sync(alive(ref))  # there again: the count begins anew
        await agent.sync()
        assert (await here.job("j")).state is State.RUNNING
        await agent.sync()
        job = await here.job("j")
        assert (job.state, job.reason) == (State.RECOVERING, "NODE_LOST")
        assert (await here.attempt(ref)).state is AttemptState.ENDED


@in_virtual_time
async def test_a_transaction_that_runs_twice_counts_an_absence_once(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        await started(here, agent)
        await asyncio.sleep(11)
        here.store.twice = True
        await agent.sync()
        assert (await here.job("j")).state is State.RUNNING
        here.store.twice, here.store.fails_writing = False, StoreUnavailable("away")
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await agent.sync()
        here.store.fails_writing = None
        await agent.sync(alive(AttemptRef((await here.job("j")).uid, 1)))
        await agent.sync()
        assert (await here.job("j")).state is State.RUNNING


@in_virtual_time
async def test_a_granted_attempt_whose_data_is_gone_fails_the_job_instead_of_leaving_it_for_ever(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        assert (await agent.commit(ref)).outcome == "GRANTED"
        await asyncio.sleep(11)
        await agent.sync()
        await agent.sync()
        job = await here.job("j")
        assert (job.state, job.reason) == (State.FAILED, "ARTIFACTS_LOST")
        assert (await here.attempt(ref)).state is AttemptState.ENDED


@in_virtual_time
async def test_an_attempt_that_we_do_not_know_is_neither_stopped_nor_settled(tmp_path):
    """A restored database must not end today's training."""
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        unknown = AttemptRef("01KUNKNOWN0000000000000000", 3)
        wanted = await agent.sync(alive(unknown), alive(replace(unknown, number=4), Stage.ENDED))
        assert (wanted.outcome, wanted.stop, wanted.settled) == ("APPLIED", (), ())


@in_virtual_time
async def test_another_node_s_attempt_is_not_judged_by_what_this_one_says(tmp_path):
    async with world(tmp_path) as here:
        agent, other = Agent(here), Agent(here, "gpu-02", cpus=1)
        await agent.sync()
        ref = await started(here, agent)
        await other.sync()
        await here.jobs.cancel("j", project="default")
        assert (await other.sync(alive(ref), alive(ref, Stage.ENDED))).stop == ()
        assert (await agent.sync(alive(ref))).stop == (Stop(ref, "CANCELLED"),)


@in_virtual_time
async def test_a_superseded_attempt_is_told_to_stop_and_why(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        await asyncio.sleep(40)
        await here.recorder.write(here.nodes.give_up_silent)
        assert (await here.job("j")).state is State.RECOVERING
        assert (await here.attempt(ref)).state is AttemptState.LOST
        assert (await agent.sync(alive(ref))).stop == (Stop(ref, "LOST"),)


@in_virtual_time
async def test_an_ended_attempt_is_settled_only_when_all_that_it_reported_is_recorded(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        ended = alive(ref, Stage.ENDED, reports=2)
        assert (await agent.sync(ended)).settled == ()
        await agent.report(ref, 2, n.Failed(1, "DATASET_EMPTY", "no rows"))
        assert (await agent.sync(ended)).settled == (ref,)
        assert (await agent.sync(ended)).settled == (ref,)


@in_virtual_time
async def test_an_attempt_that_ended_without_a_readable_last_report_does_not_hold_its_devices_for_ever(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        await agent.report(ref, 2, None)
        await agent.sync(alive(ref, Stage.ENDED, reports=2))
        assert (await here.job("j")).state is State.RECOVERING
        assert (await here.attempt(ref)).state is AttemptState.ENDED
        assert (await agent.sync(alive(ref, Stage.ENDED, reports=2))).settled == (ref,)


# silence


@in_virtual_time
async def test_a_silent_node_loses_its_jobs_but_not_its_devices(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here, gpus=1)
        await agent.sync()
        ref = await started(here, agent, resources={"gpus": 1})
        async with here.loops("watchdog"):
            await asyncio.sleep(29)
            assert (await here.job("j")).state is State.RUNNING
            await asyncio.sleep(6)
        job = await here.job("j")
        assert (job.state, job.reason) == (State.RECOVERING, "NODE_LOST")
        assert "30 s" in job.message
        assert await node_state(here) == ("NOT_READY", "SILENT")
        assert (await here.nodes.page())[0].holders == {0: "j"}
        assert (await agent.sync(alive(ref))).outcome == "APPLIED"
        assert await node_state(here) == ("READY", "")


@in_virtual_time
async def test_an_attempt_that_was_never_claimed_frees_its_devices_and_can_never_start(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        made = await here.submit("j")
        while await here.dispatcher.round():
            pass
        ref = AttemptRef(made.record.job.uid, 1)
        async with here.loops("watchdog"):
            await asyncio.sleep(40)
        assert (await here.attempt(ref)).state is AttemptState.ENDED
        assert (await agent.claim(ref)).outcome == "REFUSED"


@in_virtual_time
async def test_a_node_that_speaks_is_never_lost_and_a_cancelled_job_on_a_silent_one_ends(tmp_path):
    async with world(tmp_path) as here:
        agent, mute = Agent(here, cpus=1), Agent(here, "gpu-02", cpus=2)
        await agent.sync()
        ref = await started(here, agent, "speaks")
        await mute.sync()
        await started(here, mute, "mute")
        async with here.loops("watchdog"):
            await here.jobs.cancel("mute", project="default")
            await speaking(agent, alive(ref), seconds=60)
        assert (await here.job("speaks")).state is State.RUNNING
        job = await here.job("mute")
        assert (job.state, job.reason) == (State.CANCELLED, "NODE_LOST")


@in_virtual_time
async def test_a_granted_attempt_is_not_lost_with_its_node_and_can_still_publish(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        assert (await agent.commit(ref)).outcome == "GRANTED"
        async with here.loops("watchdog"):
            await asyncio.sleep(300)
        assert (await here.job("j")).state is State.RUNNING
        assert (await here.attempt(ref)).state is AttemptState.CLAIMED
        assert (await agent.sync(alive(ref, Stage.PUBLISHING))).stop == ()


@in_virtual_time
async def test_after_a_restart_every_node_gets_a_fresh_window(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        await started(here, agent)
        await asyncio.sleep(1000)
        here.nodes = Nodes(here.recorder, store=here.store, clock=here.clock, pace=here.pace)
        assert not await here.nodes.any_ready()
        async with here.loops("watchdog"):
            await asyncio.sleep(29)
            assert (await here.job("j")).state is State.RUNNING
            assert not await here.nodes.any_ready()  # nobody has spoken yet
            await asyncio.sleep(6)
            assert (await here.job("j")).state is State.RECOVERING


@in_virtual_time
async def test_nobody_is_lost_for_our_own_absence(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        async with here.loops("watchdog"):
            await asyncio.sleep(10)
            here.clock.jump(60)  # SIGSTOP, SIGCONT: the watchdog runs before the first message is read
            await asyncio.sleep(25)
            assert (await here.job("j")).state is State.RUNNING
            await agent.sync(alive(ref))
            await asyncio.sleep(20)
            assert (await here.job("j")).state is State.RUNNING
            await asyncio.sleep(20)
            assert (await here.job("j")).state is State.RECOVERING


@in_virtual_time
async def test_nobody_is_lost_while_nats_is_away(tmp_path):
    async with world(tmp_path) as here:
        hears = True
        here.nodes = Nodes(here.recorder, store=here.store, clock=here.clock, pace=here.pace, listening=lambda: hears)
        agent = Agent(here)
        await agent.sync()
        await started(here, agent)
        async with here.loops("watchdog"):
            await asyncio.sleep(5)
            hears = False
            await asyncio.sleep(300)
            hears = True
            await asyncio.sleep(25)
            assert (await here.job("j")).state is State.RUNNING
            await asyncio.sleep(15)
            assert (await here.job("j")).state is State.RECOVERING


@in_virtual_time
async def test_nobody_is_lost_while_the_database_is_away(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await started(here, agent)
        async with here.loops("watchdog") as died:
            here.store.fails = StoreUnavailable("away")
            for _ in range(40):
                with pytest.raises(StoreUnavailable):
                    await agent.sync(alive(ref))
                await asyncio.sleep(3)
            here.store.fails = None
            await asyncio.sleep(4)
            assert not died.done()
        assert (await here.job("j")).state is State.RUNNING


@in_virtual_time
async def test_an_older_agent_s_voice_does_not_keep_the_node_alive(tmp_path):
    async with world(tmp_path) as here:
        old, new = Agent(here), Agent(here)
        await old.sync()
        await new.sync()
        ref = await started(here, new)
        async with here.loops("watchdog"):
            await speaking(old, alive(ref), seconds=45)
        assert (await here.job("j")).state is State.RECOVERING
