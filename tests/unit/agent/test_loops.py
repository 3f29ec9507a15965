"""Every loop is guarded: its end ends the process by name, and closing ends it whatever it does."""

from __future__ import annotations

import asyncio

from agent.loops import Loops


async def _nothing() -> None:
    """Returns at once."""


async def _breaks() -> None:
    raise ValueError("boom")


async def test_a_loop_that_returns_is_a_death_with_its_name() -> None:
    loops = Loops()
    loops.forever("reports", _nothing())
    death = await loops.death()
    assert (death.name, str(death)) == ("reports", "reports: returned")


async def test_a_task_that_raises_is_a_death_with_its_cause() -> None:
    loops = Loops()
    loops.once("step", _breaks())
    death = await loops.death()
    assert isinstance(death.__cause__, ValueError)
    assert str(death) == "step: ValueError: boom"


async def test_a_task_may_return_or_be_cancelled() -> None:
    loops = Loops()
    loops.once("step", _nothing())
    loops.once("other", asyncio.sleep(600)).cancel()
    death = asyncio.create_task(loops.death())
    await asyncio.sleep(0)
    await loops.close()
    assert not death.done()
    death.cancel()


async def test_closing_ends_tasks_that_would_start_each_other_anew() -> None:
    loops, news = Loops(), asyncio.Event()
    begun = 0

    async def step() -> None:
        nonlocal begun
        begun += 1
        try:
            await asyncio.sleep(600)
        finally:
            news.set()

    async def dispatcher() -> None:
        while True:
            loops.once("step", step())
            await news.wait()
            news.clear()

    loops.forever("dispatcher", dispatcher())
    while not begun:
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await loops.close()
    assert begun == 1
