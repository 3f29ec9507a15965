"""Every recorded event reaches the stream, in order, whatever dies between."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict

from controlplane.domain import news as n
from controlplane.domain.job import Progress
from controlplane.engine import relay
from controlplane.engine.ports import BusUnavailable, OutcomeUnknown, StoreUnavailable
from tests.support import builders
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, world


def published(here):
    """Sequence numbers in the stream, by job."""
    found = defaultdict(list)
    for message in here.bus.stream:
        uid, _, sequence = message.message_id.rpartition(".")
        found[uid].append(int(sequence))
    return found


async def owed(here):
    return await here.store.read(lambda tx: tx.unpublished(limit=10_000))


async def many_events(here, count):
    """A job with so many events, committed without being announced."""
    job = builders.job(last_sequence=count)
    await here.store.write(lambda tx: tx.insert_jobs([builders.new_job(job)]))
    await here.store.write(lambda tx: tx.append_events([builders.event(job, i) for i in range(1, count + 1)]))
    return job.uid


@in_virtual_time
async def test_events_are_published_in_each_job_s_order_and_soon(tmp_path):
    async with world(tmp_path) as here, here.loops("relay"):
        agent = Agent(here)
        await agent.sync()
        refs = [await here.placed(f"j{i}", agent) for i in range(3)]
        for number in range(1, 30):
            for ref in refs:
                await agent.report(ref, number, n.Progressed(1, Progress(number, 30)))
        await asyncio.sleep(0.2)
        assert await owed(here) == []
        for ref in refs:
            assert published(here)[ref.job_uid] == list(range(1, 33))
        first = json.loads(here.bus.stream[0].payload)
        assert (first["type"], first["data"]["sequence"]) == ("job.queued", 1)


@in_virtual_time
async def test_more_than_a_round_holds_is_published_round_after_round_without_waiting(tmp_path):
    async with world(tmp_path) as here:
        count = 2 * relay.EVENTS_PER_ROUND + 5
        uid = await many_events(here, count)
        others = [await many_events(here, 1) for _ in range(3)]
        rounds = 1
        while await here.relay.round():
            rounds += 1
        assert rounds == 3
        assert published(here)[uid] == list(range(1, count + 1))
        assert all(published(here)[other] == [1] for other in others)
        assert await owed(here) == []


@in_virtual_time
async def test_more_jobs_than_a_round_takes_are_all_served(tmp_path):
    async with world(tmp_path) as here:
        made = [builders.new_job() for _ in range(relay.JOBS_PER_ROUND + 3)]
        await here.store.write(lambda tx: tx.insert_jobs(made))
        await here.store.write(lambda tx: tx.append_events([builders.event(new.job) for new in made]))
        while await here.relay.round():
            pass
        assert len(here.bus.stream) == len(made)


@in_virtual_time
async def test_killed_between_publishing_and_marking_it_publishes_again_and_the_stream_drops_the_repeats(tmp_path):
    async with world(tmp_path) as here:
        await here.relay.round()  # the stream is known
        uid = (await here.submit("j")).record.job.uid
        here.store.fails_writing = StoreUnavailable("killed here")
        for _ in range(2):
            with contextlib.suppress(StoreUnavailable):
                await here.relay.round()
        here.store.fails_writing = None
        assert published(here) == {uid: [1]}
        assert len(await owed(here)) == 1
        await here.relay.round()
        assert (published(here), await owed(here)) == ({uid: [1]}, [])


@in_virtual_time
async def test_a_mark_whose_commit_was_not_answered_is_not_fatal(tmp_path):
    async with world(tmp_path) as here:
        await here.submit("j")
        here.store.unanswered = OutcomeUnknown("lost")
        async with here.loops("relay") as died:
            await asyncio.sleep(5)
            here.store.unanswered = None
            await asyncio.sleep(5)
            assert not died.done()
        assert await owed(here) == []


@in_virtual_time
async def test_a_bus_or_a_database_that_is_away_only_delays(tmp_path):
    async with world(tmp_path) as here, here.loops("relay") as died:
        here.bus.away = True
        uid = (await here.submit("j")).record.job.uid
        await asyncio.sleep(60)
        assert here.bus.stream == []
        here.bus.away = False
        here.store.fails = StoreUnavailable("away")
        await asyncio.sleep(60)
        here.store.fails = None
        await asyncio.sleep(2)
        assert published(here) == {uid: [1]}
        assert not died.done()


@in_virtual_time
async def test_a_wiped_stream_gets_everything_again(tmp_path):
    async with world(tmp_path) as here, here.loops("relay"):
        agent = Agent(here)
        await agent.sync()
        ref = await here.placed("j", agent)
        await asyncio.sleep(1)
        assert published(here)[ref.job_uid] == [1, 2]
        here.bus.wipe()
        here.relay.reconnected()
        await asyncio.sleep(1)
        assert published(here)[ref.job_uid] == [1, 2]
        await agent.report(ref, 1, n.Started(1))
        await asyncio.sleep(1)
        assert published(here)[ref.job_uid] == [1, 2, 3]


@in_virtual_time
async def test_a_stream_that_was_wiped_without_a_word_is_noticed_when_publishing(tmp_path):
    async with world(tmp_path) as here, here.loops("relay"):
        await here.submit("first")
        await asyncio.sleep(1)
        here.bus.wipe()
        await here.submit("second")
        await asyncio.sleep(3)
        assert sorted(published(here).values()) == [[1], [1]]


@in_virtual_time
async def test_a_reconnection_in_the_midst_of_the_check_has_the_stream_checked_again(tmp_path):
    async with world(tmp_path) as here:
        await here.submit("j")
        checks = []
        ensure = here.bus.ensure_stream

        class Reconnecting:
            """Reconnects, to an empty server, while the first check is under way."""

            async def ensure_stream(self):
                state = await ensure()
                checks.append(state.identity)
                if len(checks) == 1:
                    here.bus.wipe()
                    here.relay.reconnected()
                return state

            async def publish(self, events):
                await here.bus.publish(events)

        here.relay._bus = Reconnecting()
        with contextlib.suppress(BusUnavailable):
            await here.relay.round()
        await here.relay.round()
        assert checks == ["stream 1", "stream 2"]
        assert len(here.bus.stream) == 1


@in_virtual_time
async def test_what_left_stays_what_was_recorded_byte_for_byte(tmp_path):
    async with world(tmp_path) as here, here.loops("relay"):
        await here.submit("j")
        await asyncio.sleep(1)
        recorded = await here.jobs.events("j", project="default", after=0, limit=10)
        assert [message.payload.decode() for message in here.bus.stream] == [event.json for event in recorded]
