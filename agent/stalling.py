"""Tells a trainer that hangs from one that works: by what its directory shows of progress, and for how long.

Progress is a longer `reports.jsonl` or a touched `heartbeat`; the time of day plays no part, and the time that this
process itself was stopped does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

_LOOKS_PER_TIMEOUT = 20
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.1, 15.0


def signs(directory: Path) -> tuple[int, ...]:
    """What changes when the trainer of this attempt gets on."""
    seen: list[int] = []
    for name in ("reports.jsonl", "heartbeat"):
        try:
            found = (directory / name).stat()
        except FileNotFoundError:
            seen += [0, 0]
        else:
            seen += [found.st_size, found.st_mtime_ns]
    return tuple(seen)


@dataclass(slots=True)
class Quiet:
    """How long one trainer has shown no sign of progress.

    Attributes:
        timeout: how long it may.
        seconds: how long it has, by looks at most twice as far apart as they should be.
    """

    timeout: timedelta
    seconds: float = 0.0
    _signs: tuple[int, ...] = ()

    @property
    def every_seconds(self) -> float:
        """How often to look."""
        return min(max(self.timeout.total_seconds() / _LOOKS_PER_TIMEOUT, _SHORTEST_SECONDS), _LONGEST_SECONDS)

    def look(self, seen: tuple[int, ...], elapsed_seconds: float) -> bool:
        """Whether it has stalled.

        Args:
            seen: what `signs` shows now.
            elapsed_seconds: since the look before.
        """
        self.seconds = 0.0 if seen != self._signs else self.seconds + min(elapsed_seconds, 2 * self.every_seconds)
        self._signs = seen
        return self.seconds >= self.timeout.total_seconds()
