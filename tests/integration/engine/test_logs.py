"""Trainers' logs: kept once whatever is repeated, and read page by page without a gap."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.blobs import FileBlobs
from controlplane.domain import news as n
from controlplane.domain.artifact import Log
from controlplane.domain.errors import JobNotFound
from controlplane.domain.node import AttemptRef
from controlplane.engine import logs as logs_module
from controlplane.engine.log_reading import READ_BYTES, LogPage, LogPosition
from controlplane.engine.requests import LogChunk
from tests.support.world import Agent, world


async def placed(here):
    agent = Agent(here)
    await agent.sync()
    return agent, await here.placed("j", agent)


async def chunk(here, ref, offset, data, *, node="gpu-01", rank=0):
    answer = await here.logs.log(LogChunk(node, 1, ref, rank, offset, data))
    return answer.outcome.value, answer.size_bytes


async def read_all(here, *, limit=10, start=None):
    lines, position = [], start or LogPosition()
    for _ in range(10_000):
        page = await here.log_reader.page("j", project="default", start=position, limit=limit)
        assert len(page.lines) <= limit
        lines += [(line.attempt, line.rank, line.text) for line in page.lines]
        if page.following is None or page.following == position:
            return lines, page.following
        position = page.following
    raise AssertionError("pages never end")


async def end(agent, ref, first=1):
    await agent.report(ref, first, n.Started(1), n.Failed(1, "DATASET_EMPTY", ""))


async def test_a_piece_that_does_not_follow_on_is_answered_with_where_to_go_on(tmp_path):
    async with world(tmp_path) as here:
        _, ref = await placed(here)
        assert await chunk(here, ref, 0, b"one\n") == ("STORED", 4)
        assert await chunk(here, ref, 0, b"one\n") == ("STORED", 4)  # the answer was lost
        assert await chunk(here, ref, 9, b"later\n") == ("STORED", 4)
        assert await chunk(here, ref, 4, b"two\n") == ("STORED", 8)
        assert [text for _, _, text in (await read_all(here))[0]] == ["one", "two"]


async def test_the_same_piece_twice_at_once_is_kept_once(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await asyncio.gather(*(chunk(here, ref, 0, b"a\nb\n") for _ in range(5)))
        assert await chunk(here, ref, 4, b"c\n") == ("STORED", 6)
        await end(agent, ref)
        assert [text for _, _, text in (await read_all(here))[0]] == ["a", "b", "c"]


async def test_logs_of_nobody_or_of_another_node_are_not_kept(tmp_path):
    async with world(tmp_path) as here:
        _, ref = await placed(here)
        assert await chunk(here, AttemptRef("01KNOBODY", 1), 0, b"x") == ("ENOUGH", 0)
        assert await chunk(here, ref, 0, b"x", node="gpu-02") == ("ENOUGH", 0)
        assert list((tmp_path / "blobs").rglob("*.log")) == []


async def test_a_log_is_kept_up_to_its_cap(tmp_path):
    async with world(tmp_path) as here:
        _, ref = await placed(here)
        almost = Log(ref.job_uid, 1, 0, logs_module.CAP_BYTES - 3)
        await here.store.write(lambda tx: tx.save_log(almost))
        assert await chunk(here, ref, almost.size_bytes, b"12345") == ("STORED", logs_module.CAP_BYTES)
        assert await chunk(here, ref, logs_module.CAP_BYTES, b"6") == ("ENOUGH", logs_module.CAP_BYTES)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_pages_of_any_size_show_every_line_once(tmp_path, limit):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        written = [f"line {i} ü" for i in range(20)] + ["", "  ", "\twith\ttabs", "no end"]
        data = "\n".join(written).encode()
        await chunk(here, ref, 0, data[:37])  # in the midst of a line, and of a character
        await chunk(here, ref, 37, data[37:])
        await chunk(here, ref, 0, b"rank one\r\n", rank=1)
        await end(agent, ref)
        lines, following = await read_all(here, limit=limit)
        assert [text for _, rank, text in lines if rank == 0] == written
        assert [text for _, rank, text in lines if rank == 1] == ["rank one"]
        assert following is None


async def test_a_line_that_is_being_written_is_not_shown_in_halves(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await chunk(here, ref, 0, b"whole\nhal")
        lines, position = await read_all(here)
        assert [text for _, _, text in lines] == ["whole"]
        await chunk(here, ref, 9, b"f\n")
        lines, position = await read_all(here, start=position)
        assert [text for _, _, text in lines] == ["half"]
        await chunk(here, ref, 11, b"last words")
        await end(agent, ref)
        lines, position = await read_all(here, start=position)
        assert ([text for _, _, text in lines], position) == (["last words"], None)


async def test_a_reader_of_pages_of_a_running_job_misses_no_rank_s_later_lines(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await chunk(here, ref, 0, b"a1\nhal")
        await chunk(here, ref, 0, b"b1\n", rank=1)
        lines, position = await read_all(here)
        assert lines == [(1, 0, "a1"), (1, 1, "b1")]
        await chunk(here, ref, 6, b"f\na3\n")
        await chunk(here, ref, 3, b"b2\n", rank=1)
        await chunk(here, ref, 0, b"c1\n", rank=2)
        await end(agent, ref)
        lines, position = await read_all(here, start=position)
        assert lines == [(1, 0, "half"), (1, 0, "a3"), (1, 1, "b2"), (1, 2, "c1")]
        assert position is None


async def test_a_line_larger_than_a_read_is_shown_in_pieces(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        size = READ_BYTES * 2 + 10
        for begin in range(0, size, 256 * 1024):
            await chunk(here, ref, begin, b"x" * min(256 * 1024, size - begin))
        await chunk(here, ref, size, b"\nend\n")
        await end(agent, ref)
        texts = [text for _, _, text in (await read_all(here))[0]]
        assert "".join(texts[:-1]) == "x" * size
        assert texts[-1] == "end"


async def test_bytes_that_are_no_text_are_replaced_not_refused(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await chunk(here, ref, 0, b"\xff\xfe\x00 ok\n")
        await end(agent, ref)
        assert [text for _, _, text in (await read_all(here))[0]] == ["\ufffd\ufffd\x00 ok"]


async def test_a_log_whose_bytes_are_gone_is_an_empty_one(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await chunk(here, ref, 0, b"one\n")
        await end(agent, ref)
        next((tmp_path / "blobs").rglob("*.log")).unlink()
        assert await read_all(here) == ([], None)


async def test_a_job_without_logs_has_an_empty_page_and_one_that_is_not_there_is_not_found(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        page = await here.log_reader.page("j", project="default", start=LogPosition(), limit=5)
        assert page == LogPage([], LogPosition())
        await end(agent, ref)
        page = await here.log_reader.page("j", project="default", start=LogPosition(), limit=5)
        assert page == LogPage([], None)
        with pytest.raises(JobNotFound):
            await here.log_reader.page("k", project="default", start=LogPosition(), limit=5)


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "logs/../../x", "a/../../x"])
async def test_no_key_leads_out_of_the_blob_store(tmp_path, key):
    blobs = FileBlobs(tmp_path / "blobs")
    with pytest.raises(ValueError, match="outside"):
        await blobs.put(key, b"x", offset_bytes=0)
    with pytest.raises(ValueError, match="outside"):
        await blobs.get(key, offset_bytes=0, size_bytes=1)
    assert not (tmp_path / "x").exists()


async def test_blobs_are_for_our_own_eyes(tmp_path):
    blobs = FileBlobs(tmp_path / "blobs")
    await blobs.put("a/b", b"xy", offset_bytes=0)
    await blobs.put("a/b", b"Y", offset_bytes=1)
    assert await blobs.get("a/b", offset_bytes=0, size_bytes=9) == b"xY"
    assert await blobs.get("a/b", offset_bytes=5, size_bytes=9) == b""
    assert (tmp_path / "blobs" / "a" / "b").stat().st_mode & 0o777 == 0o600
