"""An attempt on several nodes: handed out to all or none, ended on all, and over when it is over on all."""

from __future__ import annotations

import inspect
import json

import pytest

from controlplane.domain import news as n
from controlplane.domain.attempt import AttemptState
from controlplane.domain.job import State
from controlplane.domain.node import AttemptRef, NodeState, Stage
from controlplane.engine.requests import Grant, Kept, LogChunk, Output
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, alive, settle, world

FOUR = {"resources": {"gpus": 4}, "tuning_parameters": {"batch_size": 4}}


def story(test):
    """In virtual time: a world, and two nodes of two GPUs in it."""

    async def run(tmp_path, **given):
        async with world(tmp_path) as there:
            two = [Agent(there, "a", gpus=2), Agent(there, "b", gpus=2)]
            for agent in two:
                await agent.sync()
            await test(there, two, **given)

    _, _, *given = inspect.signature(test).parameters.values()
    run.__name__ = test.__name__
    run.__signature__ = inspect.Signature(
        [inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD), *given]
    )
    return in_virtual_time(run)


async def rounds(there):
    """What waits is queued, and then placed."""
    await there.dispatcher.round()
    while await there.dispatcher.round():
        pass


async def placed(there, job_id="g", **blocks):
    """A job of four GPUs, assigned to whom there is."""
    made = await there.submit(job_id, **(FOUR | blocks))
    await rounds(there)
    return AttemptRef(made.record.job.uid, 1)


async def claimed(there, two, job_id="g"):
    ref = await placed(there, job_id)
    for agent in two:
        await agent.claim(ref)
    assert (await two[0].claim(ref)).outcome is Grant.GRANTED
    return ref


async def running(there, two):
    ref = await claimed(there, two)
    for agent in two:
        await agent.report(ref, 1, n.Started(1))
    assert (await there.job("g")).state is State.RUNNING
    return ref


async def parts(there, ref):
    return await there.store.read(lambda tx: tx.parts(ref.job_uid, ref.number))


async def states(there, ref):
    return [part.state for part in await parts(there, ref)]


@story
async def test_a_job_that_no_node_holds_gets_two_at_once(there, two):
    ref = await placed(there)

    first, second = await parts(there, ref)
    assert (first.node, first.devices, first.others) == ("a", (0, 1), ("b",))
    assert (second.node, second.devices, second.index) == ("b", (0, 1), 1)
    assert [len(view.holders) for view in await there.nodes.page()] == [2, 2]
    for agent in two:
        assert (await agent.sync()).claim == (ref,)


@story
async def test_an_agent_that_says_no_address_is_given_no_part(there, two):
    two[1].inventory = Agent(there, "b").inventory
    two[1].inventory = type(two[1].inventory)(gpus=two[0].inventory.gpus, cpus=8, memory_bytes=64 << 30, simulated=True)
    await two[1].sync()
    made = await there.submit("g", **FOUR)
    await rounds(there)

    record = (await there.jobs.get("g", project="default")).record
    assert record.job.state is State.QUEUED
    assert record.pending_reason.startswith("needs 4 x GPU; the largest node has 2, and ")
    assert record.pending_reason.endswith("1 node without a rendezvous address (b)")
    assert made.record.job.attempt == 0


@story
async def test_nothing_is_handed_out_before_all_have_asked_and_the_first_said_where_to_meet(there, two):
    ref = await placed(there, resources={"gpus": 4, "max_duration_minutes": 10})
    a, b = two
    a.rendezvous_port = 0

    assert (await b.claim(ref)).outcome is Grant.NOT_NOW
    assert (await a.claim(ref)).outcome is Grant.NOT_NOW
    assert await states(there, ref) == [AttemptState.ASSIGNED] * 2
    a.rendezvous_port = 4321
    answer = await a.claim(ref)
    assert answer.outcome is Grant.GRANTED
    assert await states(there, ref) == [AttemptState.CLAIMED] * 2
    assignment = json.loads(answer.assignment_json)
    assert assignment["world_size"] == 4
    assert assignment["gang"] == {"nodes": 2, "node": 0, "first_rank": 0, "address": "a.internal", "port": 4321}
    assert assignment["deadline_seconds"] == 600
    a.rendezvous_port = 4322
    again = json.loads((await b.claim(ref)).assignment_json)
    assert again["deadline_seconds"] is None
    assert again["gang"] == {"nodes": 2, "node": 1, "first_rank": 2, "address": "a.internal", "port": 4321}
    assert (await b.claim(ref, nonce=b"x" * 16)).outcome is Grant.REFUSED


@story
async def test_a_gang_that_does_not_fill_is_given_up_and_its_devices_are_free(there, two):
    ref = await placed(there)
    a = two[0]
    assert (await a.claim(ref)).outcome is Grant.NOT_NOW
    async with there.loops("watchdog"):
        for _ in range(21):
            await there.clock.sleep(3)
            for agent in two:
                await agent.sync(*([alive(ref, Stage.CLAIMING)] if agent is a else []))

    job = await there.job("g")
    assert (job.state, job.reason, job.losses) == (State.RECOVERING, "GANG_INCOMPLETE", 1)
    assert job.message == "node b has not taken its part up within 60 s; no node began"
    assert await states(there, ref) == [AttemptState.ENDED] * 2
    assert await there.store.read(lambda tx: tx.charged_attempts()) == []
    for agent in two:
        assert (await agent.claim(ref)).outcome is Grant.REFUSED
    await there.clock.sleep(1)
    await rounds(there)
    assert (await there.job("g")).attempt == 2


@story
async def test_only_the_first_node_speaks_of_the_training_and_commits(there, two):
    ref = await running(there, two)
    a, b = two
    await b.report(ref, 2, n.PhaseChanged(1, "MERGING"), n.Warned(1, "W", "w"), n.Finished(1))
    assert (await there.job("g")).phase == ""
    await a.report(ref, 2, n.Finished(1))
    assert (await there.job("g")).phase == "UPLOADING"
    assert (await b.commit(ref)).outcome is Grant.REFUSED
    assert (await a.commit(ref)).outcome is Grant.GRANTED
    [stop] = (await b.sync(alive(ref))).stop
    assert stop.reason == "FINISHED"
    assert (await a.sync(alive(ref, Stage.PUBLISHING))).stop == ()
    await b.report(ref, 5, n.Failed(1, "TRAINER_CRASHED", "the other end is gone"))
    assert (await there.job("g")).state is State.RUNNING
    await a.report(ref, 3, n.Published(1), output=Output("file:///out", "d1", ()))
    assert (await there.job("g")).state is State.SUCCEEDED
    assert await states(there, ref) == [AttemptState.ENDED] * 2
    assert (await b.sync(alive(ref, Stage.ENDED, reports=5))).settled == (ref,)


@story
async def test_a_node_cannot_publish_for_the_first(there, two):
    ref = await running(there, two)
    await two[0].report(ref, 2, n.Finished(1))
    await two[0].commit(ref)
    await two[1].report(ref, 2, n.Published(1), output=Output("file:///out", "d1", ()))

    assert (await there.job("g")).state is State.RUNNING


@pytest.mark.parametrize("failing", [0, 1])
@story
async def test_one_node_s_failure_ends_all_with_its_words(there, two, failing):
    ref = await running(there, two)
    there.bus.wakes.clear()
    await two[failing].report(ref, 2, n.Failed(1, "TRAINER_CRASHED", "rank 3: its words"))
    job = await there.job("g")
    assert (job.state, job.reason, job.message) == (State.RECOVERING, "TRAINER_CRASHED", "rank 3: its words")

    async with there.loops("wakes"):
        await settle()
    other = two[1 - failing]
    assert other.node in there.bus.wakes
    [stop] = (await other.sync(alive(ref))).stop
    assert stop.reason == "PEER_ENDED"
    await there.clock.sleep(3)
    await rounds(there)
    assert (await there.job("g")).state is State.RECOVERING  # until nothing of it is left on the other
    held = await there.store.read(lambda tx: tx.charged_attempts())
    assert [part.node for part in held] == [other.node]
    await other.report(ref, 2, n.Stopped(1, "PEER_ENDED"))
    await there.clock.sleep(1)
    await rounds(there)
    assert (await there.job("g")).attempt == 2
    shown = (await there.jobs.get("g", project="default")).record.attempts
    assert [(attempt.node, attempt.others, attempt.reason) for attempt in shown] == [
        ("a", ("b",), "TRAINER_CRASHED"),
        ("a", ("b",), ""),
    ]


@pytest.mark.parametrize("lost", [0, 1])
@story
async def test_a_lost_node_loses_the_attempt_and_its_devices_stay_charged(there, two, lost):
    ref = await running(there, two)
    survivor = two[1 - lost]
    async with there.loops("watchdog"):
        for _ in range(13):
            await there.clock.sleep(3)
            await survivor.sync(alive(ref))
    job = await there.job("g")
    assert (job.state, job.reason) == (State.RECOVERING, "NODE_LOST")
    assert (await survivor.sync(alive(ref))).stop[0].attempt == ref
    await survivor.report(ref, 2, n.Stopped(1, "PEER_ENDED"))
    found = {part.node: part.state for part in await parts(there, ref)}
    assert found == {survivor.node: AttemptState.ENDED, two[lost].node: AttemptState.LOST}
    back = two[lost]
    await there.clock.sleep(1)
    await rounds(there)
    assert (await there.job("g")).state is State.QUEUED
    [stop] = (await back.sync(alive(ref))).stop
    assert stop.reason == "LOST"
    await back.report(ref, 2, n.Stopped(1, "LOST"))
    await rounds(there)
    assert (await there.job("g")).attempt == 2


@story
async def test_nodes_that_are_lost_together_lose_the_attempt_once(there, two):
    ref = await running(there, two)
    there.clock.jump(40)
    await there.recorder.write(there.nodes.give_up_silent)
    job = await there.job("g")
    assert (job.state, job.reason, job.losses) == (State.RECOVERING, "NODE_LOST", 1)
    assert await states(there, ref) == [AttemptState.LOST] * 2
    assert (await there.types("g"))[-1] == "job.recovering"


@story
async def test_a_node_that_is_lost_before_it_claimed_releases_the_others(there, two):
    ref = await placed(there)
    async with there.loops("watchdog"):
        for _ in range(13):
            await there.clock.sleep(3)
            await two[0].sync(alive(ref, Stage.CLAIMING))

    assert (await there.job("g")).reason == "NODE_LOST"
    assert await states(there, ref) == [AttemptState.ENDED] * 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@story
async def test_cancelled_is_said_when_no_process_is_left_on_any_node(there, two, order):
    ref = await running(there, two)
    await there.jobs.cancel("g", project="default")
    for agent in two:
        assert [stop.reason for stop in (await agent.sync(alive(ref))).stop] == ["CANCELLED"]
    await two[order[0]].report(ref, 2, n.Stopped(1, "CANCELLED"))
    assert (await there.job("g")).state is State.CANCELLING
    await two[order[1]].report(ref, 2, n.Failed(1, "TRAINER_CRASHED", "at the very end"))
    assert (await there.job("g")).state is State.CANCELLED


@story
async def test_cancelled_does_not_wait_for_a_node_that_cannot_be_reached(there, two):
    ref = await running(there, two)
    await there.jobs.cancel("g", project="default")
    await two[0].report(ref, 2, n.Stopped(1, "CANCELLED"))
    async with there.loops("watchdog"):
        for _ in range(13):
            await there.clock.sleep(3)
            await two[0].sync()
    job = await there.job("g")
    assert (job.state, job.reason) == (State.CANCELLED, "NODE_LOST")
    assert await states(there, ref) == [AttemptState.ENDED, AttemptState.LOST]


@story
async def test_cancelled_waits_for_the_other_nodes_of_an_attempt_that_has_failed(there, two):
    ref = await running(there, two)
    await two[1].report(ref, 2, n.Failed(1, "TRAINER_CRASHED", "boom"))
    await there.jobs.cancel("g", project="default")
    assert (await there.job("g")).state is State.CANCELLING
    assert [stop.reason for stop in (await two[0].sync(alive(ref))).stop] == ["CANCELLED"]
    await two[0].report(ref, 2, n.Stopped(1, "CANCELLED"))
    assert (await there.job("g")).state is State.CANCELLED


@story
async def test_a_gang_that_was_not_handed_out_is_cancelled_at_once(there, two):
    ref = await placed(there)
    await two[1].claim(ref)
    await there.jobs.cancel("g", project="default")

    assert (await there.job("g")).state is State.CANCELLED
    assert await states(there, ref) == [AttemptState.ENDED] * 2
    assert (await two[0].claim(ref)).outcome is Grant.REFUSED


@story
async def test_a_member_that_is_gone_loses_the_attempt(there, two):
    ref = await running(there, two)
    await there.clock.sleep(11)
    for _ in range(2):
        await two[1].sync()
    assert (await there.job("g")).state is State.RECOVERING
    assert await states(there, ref) == [AttemptState.CLAIMED, AttemptState.ENDED]


@story
async def test_a_node_that_is_lost_after_the_training_does_not_undo_it(there, two):
    ref = await running(there, two)
    await two[0].report(ref, 2, n.Finished(1))
    async with there.loops("watchdog"):
        for _ in range(13):
            await there.clock.sleep(3)
            await two[0].sync(alive(ref, Stage.STAGING))
    assert (await there.job("g")).state is State.RUNNING
    assert await states(there, ref) == [AttemptState.CLAIMED, AttemptState.LOST]
    nodes = await there.store.read(lambda tx: tx.nodes())
    assert [node.state for node in nodes] == [NodeState.READY, NodeState.NOT_READY]


async def test_each_node_keeps_the_logs_of_its_own_ranks(tmp_path):
    async with world(tmp_path) as there:
        two = [Agent(there, "a", gpus=2), Agent(there, "b", gpus=2)]
        for agent in two:
            await agent.sync()
        ref = await running(there, two)

        async def kept(agent, rank):
            chunk = LogChunk(agent.node, agent.incarnation, ref, rank, 0, b"words\n")
            return (await there.logs.log(chunk)).outcome

        assert [await kept(two[0], rank) for rank in range(4)] == [Kept.STORED] * 2 + [Kept.ENOUGH] * 2
        assert [await kept(two[1], rank) for rank in range(4)] == [Kept.ENOUGH] * 2 + [Kept.STORED] * 2
