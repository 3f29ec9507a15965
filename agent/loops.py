"""Guards every task of the process: one that dies, or returns although it should not, ends the process by name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


class LoopDiedError(Exception):
    """A guarded task came to an end that it must not have; the cause, if any, is chained."""

    def __init__(self, name: str, cause: BaseException | None) -> None:
        super().__init__(f"{name}: {'returned' if cause is None else f'{type(cause).__name__}: {cause}'}")
        self.name = name
        self.__cause__ = cause


class Loops:
    """Creates all tasks of the process; made inside the running event loop."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []
        self._death: asyncio.Future[LoopDiedError] = asyncio.get_running_loop().create_future()

    def forever(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a loop that must not return."""
        return self._guard(name, coroutine, may_return=False)

    def once(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that may return, or be cancelled by who asked for it, but not raise."""
        return self._guard(name, coroutine, may_return=True)

    async def death(self) -> LoopDiedError:
        """Wait for the first task that dies."""
        return await asyncio.shield(self._death)

    async def close(self) -> None:
        """Cancel all tasks at once, so that none starts another because a third ended, and wait for them."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _guard(self, name: str, coroutine: Coroutine[Any, Any, Any], *, may_return: bool) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.append(task)
        task.add_done_callback(lambda done: self._ended(done, may_return=may_return))
        return task

    def _ended(self, task: asyncio.Task[Any], *, may_return: bool) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        cause = None if task.cancelled() else task.exception()
        if task.cancelled() or (cause is None and may_return) or self._death.done():
            return
        self._death.set_result(LoopDiedError(task.get_name(), cause))
