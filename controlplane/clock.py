"""The real clock: `ports.Clock`."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Wall time for people, a monotonic one for judging."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)
