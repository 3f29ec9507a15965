"""Waiting across processes: poll until true, or fail with the last thing seen. Never a bare sleep."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


#: Only what fails waits so long. A machine that is shared takes many times what an idle one does: 30 s, say, for torch.
PATIENCE_SECONDS = 60.0


async def eventually(
    probe: Callable[[], Any | Awaitable[Any]],
    *,
    deadline_seconds: float = PATIENCE_SECONDS,
    every_seconds: float = 0.02,
) -> Any:
    """Call `probe` until it answers something true, and return that.

    Raises:
        AssertionError: nothing true within the deadline; names the last answer or `AssertionError` of the probe.
    """
    end = time.monotonic() + deadline_seconds
    last: Any = None
    while True:
        try:
            last = probe()
            if inspect.isawaitable(last):
                last = await last
            if last:
                return last
        except AssertionError as error:
            last = error
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_seconds} s; last seen: {last!r}")
        await asyncio.sleep(every_seconds)
