"""The children together: started in order, each when the one before is ready; ended in reverse.

A child's failure for good ends `up`; so does anything else that leaves the context. Nothing that was started
outlives it, whatever happens inside, cancellation at any moment included.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from trainplane.up.children import Child, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Supervisor:
    """A context that owns children.

    Args:
        tell: gets lines for the user.
        hurry: when set, stopping kills at once.
        spawned: is called after each start of any child.
    """

    def __init__(self, *, tell: Callable[[str], None], hurry: asyncio.Event, spawned: Callable[[], None]) -> None:
        self._tell = tell
        self._hurry = hurry
        self._spawned = spawned
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in reversed(self._children):
            await child.stop(self._hurry)

    async def start(self, program: Program) -> None:
        """Start a child and return when it is ready.

        Raises:
            UpError: it cannot be started, or failed.
        """
        child = Child(program, tell=self._tell, spawned=self._spawned)
        self._children.append(child)
        starting = asyncio.create_task(child.start(), name=f"start {program.name}")
        earlier = asyncio.create_task(self.failed(but=child), name="an earlier child fails")
        try:
            await asyncio.wait({starting, earlier}, return_when=asyncio.FIRST_COMPLETED)
            (starting if starting.done() else earlier).result()
        finally:
            starting.cancel()
            earlier.cancel()

    async def failed(self, *, but: Child | None = None) -> None:
        """Wait for a child's failure; never returns without one.

        Raises:
            ChildFailed: one failed for good.
        """
        lives = {child.life for child in self._children if child.life is not None and child is not but}
        if not lives:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(lives, return_when=asyncio.FIRST_COMPLETED)
        for life in done:
            life.result()

    @property
    def pids(self) -> Mapping[str, int]:
        """The running children's processes by name, in the order of their start."""
        return {child.program.name: child.pid for child in self._children if child.pid is not None}
