"""Stopping a process by SIGSTOP, and knowing that it stands still: a signal is only sent when `kill` returns."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_DEADLINE_SECONDS = 30.0


def freeze(pid: int) -> None:
    """Return when every thread of a process has stopped; one that still ran could answer or write once more.

    Raises:
        AssertionError: it has not within half a minute.
        ProcessLookupError: there is no such process.
    """
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + _DEADLINE_SECONDS
    while (states := _states(pid)) - {"T", "Z"}:
        if time.monotonic() > end:
            raise AssertionError(f"process {pid} does not stop: {states}")
        time.sleep(0.002)


def _states(pid: int) -> set[str]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.add((task / "stat").read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended meanwhile
    return found
