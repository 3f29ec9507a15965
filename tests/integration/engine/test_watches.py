"""Following a job: everything, in order, to the end, at the price of one reader."""

from __future__ import annotations

import asyncio
import gc
import itertools
from contextlib import aclosing

import pytest

from controlplane.domain import news as n
from controlplane.domain.job import Progress
from controlplane.engine.ports import StoreUnavailable
from controlplane.engine.watches import KEEP_ALIVE_SECONDS, PAGE, Watches
from tests.support import builders
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, settle, world


async def collect(here, uid, after=0, *, keep_alives=None):
    """All sequence numbers until the stream ends."""
    got = []
    async with aclosing(here.watches.follow(uid, after=after)) as rows:
        async for row in rows:
            got += [event.sequence for event in row]
            if not row and keep_alives is not None:
                keep_alives.append(asyncio.get_running_loop().time())
    return got


async def started(here):
    agent = Agent(here)
    await agent.sync()
    return agent, await here.placed("j", agent)


async def finish(agent, ref, first):
    await agent.report(ref, first, n.Failed(1, "DATASET_EMPTY", "no rows"))


@in_virtual_time
async def test_a_watcher_gets_what_was_and_what_comes_and_ends_with_the_job(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        early = asyncio.ensure_future(collect(here, ref.job_uid))
        await settle()
        await agent.report(ref, 1, n.Started(1))
        late = asyncio.ensure_future(collect(here, ref.job_uid))
        from_two = asyncio.ensure_future(collect(here, ref.job_uid, after=2))
        await settle()
        await finish(agent, ref, 2)
        assert await early == await late == [1, 2, 3, 4]
        assert await from_two == [3, 4]
        assert await collect(here, ref.job_uid) == [1, 2, 3, 4]  # long after the end


@in_virtual_time
async def test_who_resumes_from_the_terminal_event_or_beyond_is_ended_at_once(tmp_path):
    """A browser's EventSource reconnects by itself with the last id: it must not hang on a job that is over."""
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        await agent.report(ref, 1, n.Started(1))
        await finish(agent, ref, 2)
        for after in (4, 5, 1_000_000):
            async with asyncio.timeout(1):
                assert await collect(here, ref.job_uid, after=after) == []


@in_virtual_time
async def test_commits_while_watching_are_never_missed_nor_repeated(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        watchers = [asyncio.ensure_future(collect(here, ref.job_uid, after=a)) for a in (0, 1, 2, 2, 2)]
        for number in range(1, 200):
            await agent.report(ref, number, n.Progressed(1, Progress(number, 200)))
            if number % 7 == 0:
                watchers.append(asyncio.ensure_future(collect(here, ref.job_uid)))
            if number % 3 == 0:
                await asyncio.sleep(0)
        await finish(agent, ref, 200)
        last = (await here.job("j")).last_sequence
        for watcher, after in zip(watchers, [0, 1, 2, 2, 2] + [0] * 100, strict=False):
            assert await watcher == list(range(after + 1, last + 1))


@in_virtual_time
async def test_lost_hints_cost_a_keep_alive_s_time_and_nothing_else(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        keep_alives = []
        watcher = asyncio.ensure_future(collect(here, ref.job_uid, keep_alives=keep_alives))
        await settle()
        here.recorder._announce = lambda told: None  # committed by a process that died before telling
        await agent.report(ref, 1, n.Started(1))
        await finish(agent, ref, 2)
        began = asyncio.get_running_loop().time()
        assert await watcher == [1, 2, 3, 4]
        assert asyncio.get_running_loop().time() - began <= KEEP_ALIVE_SECONDS + 1
        assert len(keep_alives) == 1


@in_virtual_time
async def test_a_quiet_job_s_watcher_hears_a_keep_alive_as_often_as_set(tmp_path):
    async with world(tmp_path) as here:
        here.watches = Watches(here.store, recent=here.recent, keep_alive_seconds=0.5)
        uid = (await here.submit("j")).record.job.uid
        times = []
        async with aclosing(here.watches.follow(uid, after=0)) as rows:
            async for row in rows:
                if not row:
                    times.append(asyncio.get_running_loop().time())
                if len(times) == 4:
                    break
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps == pytest.approx([0.5] * 3, abs=0.01)


@in_virtual_time
async def test_who_has_seen_all_there_is_hears_at_once_that_he_is_connected(tmp_path):
    """An EventSource that resumes has no headers, and is not open, before something is sent."""
    async with world(tmp_path) as here:
        uid = (await here.submit("j")).record.job.uid
        began = asyncio.get_running_loop().time()
        async with aclosing(here.watches.follow(uid, after=1)) as rows:
            assert list(await anext(rows)) == []
        assert asyncio.get_running_loop().time() - began < 1


@in_virtual_time
async def test_more_than_a_page_comes_page_after_page(tmp_path):
    async with world(tmp_path) as here:
        count = 2 * PAGE + 3
        job = builders.job(last_sequence=count)
        await here.store.write(lambda tx: tx.insert_jobs([builders.new_job(job)]))
        made = [builders.event(job, i) for i in range(1, count)]
        made.append(builders.event(job, count, builders.EventType.FAILED))
        await here.store.write(lambda tx: tx.append_events(made))
        assert await collect(here, job.uid) == list(range(1, count + 1))


class SlowReads:
    """Answers reads one loop turn at a time, as a database server does, and counts them."""

    def __init__(self, inner):
        self.inner = inner
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, work):
        self.reads += 1
        await self.gate.wait()
        return await self.inner.read(work)


@in_virtual_time
async def test_two_hundred_watchers_share_reads(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        slow = SlowReads(here.store)
        here.watches = Watches(slow, recent=type(here.recent)())
        here.announcer._watches = here.watches
        slow.gate.clear()
        watchers = [asyncio.ensure_future(collect(here, ref.job_uid)) for _ in range(200)]
        await settle(5)
        assert slow.reads == 1
        slow.gate.set()
        await settle(10)
        await agent.report(ref, 1, n.Started(1))
        await finish(agent, ref, 2)
        assert {tuple(await watcher) for watcher in watchers} == {(1, 2, 3, 4)}


@in_virtual_time
async def test_when_the_watcher_that_reads_goes_away_the_others_read_on(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        await agent.report(ref, 1, n.Started(1))
        await finish(agent, ref, 2)
        slow = SlowReads(here.store)
        here.watches = Watches(slow, recent=type(here.recent)())
        slow.gate.clear()
        reader, *others = [asyncio.ensure_future(collect(here, ref.job_uid)) for _ in range(4)]
        await settle(5)
        reader.cancel()
        await settle(5)
        slow.gate.set()
        assert [await other for other in others] == [[1, 2, 3, 4]] * 3
        with pytest.raises(asyncio.CancelledError):
            await reader


@in_virtual_time
async def test_a_database_that_is_away_ends_every_watcher_in_words_and_leaves_nothing_behind(tmp_path):
    async with world(tmp_path) as here:
        uid = (await here.submit("j")).record.job.uid
        here.watches = Watches(here.store, recent=type(here.recent)())
        here.store.fails = StoreUnavailable("away")
        answers = await asyncio.gather(*(collect(here, uid) for _ in range(5)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 5
        assert here.watches._topics == {}


@in_virtual_time
async def test_watchers_that_come_and_go_leave_nothing_behind(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        stays = asyncio.ensure_future(collect(here, ref.job_uid))
        await settle()
        for _ in range(50):
            goes = asyncio.ensure_future(collect(here, ref.job_uid))
            await settle(3)
            goes.cancel()
            await asyncio.wait([goes])
        topic = here.watches._topics[ref.job_uid]
        assert (topic.watchers, len(topic.waiting), topic.reads) == (1, 1, {})
        await agent.report(ref, 1, n.Started(1))
        await finish(agent, ref, 2)
        await stays
        assert here.watches._topics == {}
        del stays, goes, topic
        gc.collect()
