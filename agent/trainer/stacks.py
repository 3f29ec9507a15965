"""Writes the stacks of all threads to the log when the agent asks, as it does of a trainer that makes no progress."""

from __future__ import annotations

import faulthandler
import signal

ASKED_BY = signal.SIGUSR1


def write_when_asked() -> None:
    """From now on, also while native code runs. To stderr as it is now."""
    faulthandler.register(ASKED_BY, all_threads=True)
