"""Following a log: what is kept, then what comes, every rank's, to the end of the job."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain import news as n
from controlplane.domain.artifact import Log
from controlplane.domain.errors import JobNotFound
from controlplane.engine.log_reading import LogPosition, LogReader
from controlplane.engine.ports import StoreUnavailable
from controlplane.engine.requests import LogChunk
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, settle, world

BEGINNING = LogPosition()


class Blobs:
    """Log bytes in memory: virtual time cannot wait for the threads that files need."""

    def __init__(self):
        self.bytes = {}
        self.hold = asyncio.Event()
        self.hold.set()

    async def put(self, key, data, *, offset_bytes):
        before = self.bytes.get(key, b"")
        self.bytes[key] = before[:offset_bytes] + data + before[offset_bytes + len(data) :]

    async def get(self, key, *, offset_bytes, size_bytes):
        await asyncio.sleep(0)  # as every real read does, this takes a turn
        await self.hold.wait()
        return self.bytes.get(key, b"")[offset_bytes : offset_bytes + size_bytes]


class Tail:
    """A reader that follows."""

    def __init__(self, here, start=BEGINNING):
        self.pages = []
        self.ended = False
        self._task = asyncio.ensure_future(self._read(here, start))

    async def _read(self, here, start):
        async with aclosing(here.log_reader.follow("j", project="default", start=start)) as pages:
            async for page in pages:
                self.pages.append(page)
        self.ended = True

    @property
    def lines(self):
        return [(line.attempt, line.rank, line.text) for page in self.pages for line in page.lines]

    async def gone(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def placed(here):
    blobs = Blobs()
    here.logs._blobs = blobs
    here.log_reader = LogReader(here.store, blobs=blobs, hints=here.log_hints)
    agent = Agent(here)
    await agent.sync()
    return agent, await here.placed("j", agent)


async def write(here, ref, text, rank=0):
    log = await here.store.read(lambda tx: tx.log(ref.job_uid, attempt=ref.number, rank=rank))
    offset = log.size_bytes if isinstance(log, Log) else 0
    await here.logs.log(LogChunk("gpu-01", 1, ref, rank, offset, text.encode()))
    await settle()


@in_virtual_time
async def test_what_is_kept_comes_first_then_each_rank_s_new_lines_at_once_and_the_end_with_the_job(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await write(here, ref, "one\ntwo\n")
        tail = Tail(here)
        await settle()
        assert tail.lines == [(1, 0, "one"), (1, 0, "two")]
        began = here.clock.monotonic()
        await write(here, ref, "from rank 3\n", rank=3)
        await write(here, ref, "three\nhal")
        assert tail.lines[2:] == [(1, 3, "from rank 3"), (1, 0, "three")]
        await write(here, ref, "f\nlast words")
        assert tail.lines[4:] == [(1, 0, "half")]
        await agent.report(ref, 1, n.Started(1), n.Failed(1, "DATASET_EMPTY", ""))
        await settle()
        assert tail.lines[5:] == [(1, 0, "last words")]
        assert tail.ended
        assert here.clock.monotonic() - began < 1  # nothing waited for a keep-alive


@in_virtual_time
async def test_a_silent_log_has_keep_alives_and_a_reader_that_leaves_is_forgotten(tmp_path):
    async with world(tmp_path) as here:
        await placed(here)
        tail = Tail(here)
        await settle()
        assert [page.lines for page in tail.pages] == [[]]  # at once: the stream is open
        await asyncio.sleep(100)
        assert [page.lines for page in tail.pages] == [[]] * 7
        assert here.log_hints._waiting
        await tail.gone()
        assert here.log_hints._waiting == {}


@in_virtual_time
async def test_readers_at_the_same_place_share_a_read_and_one_that_leaves_takes_it_from_nobody(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        tails = [Tail(here) for _ in range(50)]
        await settle()
        before = here.store.reads
        await write(here, ref, "one\n")
        await settle()
        assert all(tail.lines == [(1, 0, "one")] for tail in tails)
        assert here.store.reads - before <= 3  # two are the writer's
        # The one that reads for all is cancelled in the midst of it.
        here.log_hints.give([ref.job_uid])
        blobs = here.log_reader._blobs
        blobs.hold.clear()
        log = here.logs.log(LogChunk("gpu-01", 1, ref, 0, 4, b"two\n"))
        await log
        await settle()
        await tails[0].gone()
        blobs.hold.set()
        await settle()
        assert all(tail.lines == [(1, 0, "one"), (1, 0, "two")] for tail in tails[1:])
        await agent.report(ref, 1, n.Started(1), n.Failed(1, "DATASET_EMPTY", ""))
        await settle()
        assert all(tail.ended for tail in tails[1:])
        assert here.log_reader._reads == {}


@in_virtual_time
async def test_it_goes_on_to_the_next_attempt_after_the_last_words_of_the_one_before(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        tail = Tail(here)
        await write(here, ref, "first\ncrash")
        await agent.report(ref, 1, n.Started(1), n.Failed(1, "TRAINER_CRASHED", ""))
        await asyncio.sleep(5)
        async with here.loops("dispatcher"):
            await asyncio.sleep(5)
        again = type(ref)(ref.job_uid, 2)
        await agent.claim(again)
        await write(here, again, "second\n")
        assert tail.lines == [(1, 0, "first"), (1, 0, "crash"), (2, 0, "second")]
        await agent.report(again, 1, n.Started(2), n.Failed(2, "DATASET_EMPTY", ""))
        await settle()
        assert tail.ended


@pytest.mark.parametrize("ended", [False, True])
def test_whoever_resumes_from_any_line_gets_the_rest_once(tmp_path, ended):
    @in_virtual_time
    async def run():
        async with world(tmp_path) as here:
            agent, ref = await placed(here)
            for number in range(5):
                await write(here, ref, f"a{number}\n" * 2)
                await write(here, ref, f"b{number}\n", rank=1)
            if ended:
                await agent.report(ref, 1, n.Started(1), n.Failed(1, "DATASET_EMPTY", ""))
            whole = Tail(here)
            await settle()
            assert len(whole.lines) == 15
            passed = []
            for page in whole.pages:
                for line, position in page.numbered():
                    passed.append((line.attempt, line.rank, line.text))
                    rest = Tail(here, LogPosition.parse(str(position)))
                    await settle()
                    assert sorted(passed + rest.lines) == sorted(whole.lines)
                    assert rest.ended == ended
                    await rest.gone()
            await whole.gone()

    run()


@in_virtual_time
async def test_without_a_job_there_is_nothing_to_follow_and_without_sql_it_says_so(tmp_path):
    async with world(tmp_path) as here:
        with pytest.raises(JobNotFound):
            await anext(here.log_reader.follow("k", project="default", start=LogPosition()))
        await placed(here)
        follow = here.log_reader.follow("j", project="default", start=LogPosition())
        assert [(await anext(follow)).lines for _ in range(2)] == [[], []]
        here.store.fails = StoreUnavailable("away")
        with pytest.raises(StoreUnavailable):
            await anext(follow)


@given(
    st.builds(
        LogPosition,
        st.integers(1, 10**9 - 1),
        st.dictionaries(st.integers(0, 99_999), st.integers(0, 10**15 - 1), max_size=9),
    )
    | st.just(LogPosition())
)
def test_a_position_can_be_written_down(position):
    assert LogPosition.parse(str(position)) == position


@pytest.mark.parametrize("text", ["x", "1.", "1.0", "1.0-", "0.0-1", "1.0-1,", "-1", "1.0--1", "1.0-1" * 3000, "1\n"])
def test_what_is_no_position_is_refused(text):
    with pytest.raises(ValueError, match="position"):
        LogPosition.parse(text)
