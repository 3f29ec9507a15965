"""The trainer's signs of life: `heartbeat` in the attempt's directory is touched wherever the work gets on.

Called from the innermost loops, so that a training that hangs can be told from one whose steps take long
(docs/trainer-contract.md). Of several ranks the first has one: where another hangs, it waits. Not by a thread of its
own, which would go on when the training does not.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "heartbeat"
EVERY_SECONDS = 1.0


class Pulse:
    """Silent until it has begun; at most one touch a second."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._next = float("inf")

    def begin(self, directory: Path) -> None:
        """Beat for this attempt from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.open(directory / NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._next = 0.0

    def beat(self) -> None:
        """Something was done."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + EVERY_SECONDS
            os.utime(self._descriptor)


PULSE = Pulse()
"""This process'."""
