"""Every task of the process: named, watched, and ended in order."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.loops import running
from tests.support.clock import in_virtual_time


async def forever():
    await asyncio.get_running_loop().create_future()


async def raises():
    await asyncio.sleep(1)
    raise RuntimeError("boom")


async def returns():
    await asyncio.sleep(1)


async def cancelled_by_itself():
    await asyncio.sleep(1)
    waited = asyncio.get_running_loop().create_future()
    waited.cancel()
    await waited


@in_virtual_time
async def test_a_loop_that_raises_is_named_with_its_cause():
    async with running({"good": forever(), "bad": raises()}) as died:
        death = await died
        assert str(death) == "bad: RuntimeError: boom"
        assert isinstance(death.__cause__, RuntimeError)


@in_virtual_time
async def test_a_loop_that_returns_is_as_dead():
    async with running({"good": forever(), "bad": returns()}) as died:
        assert str(await died) == "bad: returned"


@in_virtual_time
async def test_a_loop_that_was_cancelled_from_within_is_as_dead():
    async with running({"good": forever(), "bad": cancelled_by_itself()}) as died:
        async with asyncio.timeout(60):
            assert str(await died).startswith("bad: CancelledError")


@in_virtual_time
async def test_the_first_death_is_the_one_that_is_told():
    async def later():
        await asyncio.sleep(2)
        raise ValueError

    async with running({"later": later(), "bad": raises()}) as died:
        await asyncio.sleep(3)
        assert str(died.result()).startswith("bad")


@in_virtual_time
async def test_loops_end_one_after_the_other_the_last_started_first_and_no_death_is_told():
    ended = []

    async def slow_to_end(name):
        try:
            await forever()
        finally:
            await asyncio.sleep(0.2)
            ended.append(name)

    async with running({name: slow_to_end(name) for name in "abc"}) as died:
        await asyncio.sleep(1)
    assert ended == ["c", "b", "a"]
    assert not died.done()


@in_virtual_time
async def test_a_loop_that_loses_its_cancellation_is_cancelled_again():
    lost = []

    async def deaf():
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                lost.append(1)
                if len(lost) > 2:
                    raise

    async with running({"deaf": deaf()}):
        await asyncio.sleep(1)
    assert len(lost) == 3


@in_virtual_time
async def test_a_fault_in_the_body_ends_the_loops_too():
    ended = []

    async def noted():
        try:
            await forever()
        finally:
            ended.append(1)

    async def broken():
        async with running({"a": noted()}):
            await asyncio.sleep(1)
            raise KeyError

    with pytest.raises(KeyError):
        await broken()
    assert ended == [1]
