"""Virtual time: an event loop whose clock stands still while anything can run, and jumps to the next timer otherwise.

Days pass in milliseconds, and every timer of the code under test takes part, asyncio's own included. Not for tests that
wait for other threads or processes: time would jump while those work.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

from tests.support.builders import EPOCH_US


class _Jumping(selectors.SelectSelector):
    """Never waits for a timer: says how long it should have waited instead."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("nothing can happen any more: no timer is set, and nothing is ready")
        # A nanosecond more, or a timer may lie just beyond what floats can tell.
        self.waited += max(timeout, 0.0) + 1e-9
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.waited


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test in virtual time, with a loop of its own; asynchronous fixtures cannot be used."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*given, **named))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would see a coroutine function, and run it itself
    return run


class LoopClock:
    """`ports.Clock` on the running loop's time, virtual or real. `jump` moves only the monotonic clock: an absence."""

    def __init__(self) -> None:
        self._absent = 0.0
        self.wall_seconds = 0.0
        """How far somebody set the wall clock."""

    def now_us(self) -> int:
        """Wall time; it begins with 2026."""
        return EPOCH_US + round((self.monotonic() + self.wall_seconds) * 1e6)

    def monotonic(self) -> float:
        """Seconds."""
        return asyncio.get_running_loop().time() + self._absent

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)

    def jump(self, seconds: float) -> None:
        """The process stands still for so long, as under SIGSTOP: no timer ran meanwhile."""
        self._absent += seconds
