"""Every task of the process, by name: one that dies, or returns although it should not, ends the process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping


_CANCEL_AGAIN_SECONDS = 0.5


class LoopDied(Exception):  # noqa: N818 - it says what happened
    """A loop ended; the cause, if any, is chained."""


@asynccontextmanager
async def running(loops: Mapping[str, Coroutine[None, None, None]]) -> AsyncIterator[asyncio.Future[LoopDied]]:
    """Runs loops for the time of the context; the future is set when the first of them dies.

    At the end they are cancelled, the last started first, each awaited before the next.
    """
    died: asyncio.Future[LoopDied] = asyncio.get_running_loop().create_future()
    ending = False

    def note(task: asyncio.Task[None]) -> None:
        if ending or died.done():
            return
        # A loop that something within it cancelled is as dead as one that raised.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        death = LoopDied(f"{task.get_name()}: {'returned' if error is None else f'{type(error).__name__}: {error}'}")
        death.__cause__ = error
        died.set_result(death)

    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]
    for task in tasks:
        task.add_done_callback(note)
    try:
        yield died
    finally:
        ending = True
        for task in reversed(tasks):
            # More than once: `asyncio.wait_for`, which nats-py uses, loses a cancellation that comes together with what
            # it waits for (https://github.com/python/cpython/issues/86296, mended in Python 3.12).
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=_CANCEL_AGAIN_SECONDS)
