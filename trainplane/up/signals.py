"""Ending on Ctrl-C, SIGTERM or a closed terminal: the first signal asks, the second hurries, none is lost.

asyncio's own way (a second Ctrl-C raises in the middle of whatever runs) would leave children behind.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 - it says what happened
    """A signal asked for the end, and everything was ended."""


async def until_signalled(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]], *, tell: Callable[[str], None]) -> T:
    """Run `work(hurry)`, cancelled once by the first signal; `hurry` is set by the second.

    Raises:
        Interrupted: a signal came, and `work` has ended.
    """
    loop, hurry = asyncio.get_running_loop(), asyncio.Event()
    task = asyncio.create_task(work(hurry), name="work")
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            tell("stopping (again: kill)")
            task.cancel()
        else:
            hurry.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        if signals:
            raise Interrupted from None
        raise
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
