"""Processes that an `up` left behind which could not clean up: it was killed, or they outlived their parent.

They are known by the record that `up` writes at each start, and by a marker in their environment (which covers the
instant between a start and its record). Trainers carry a marker of their own, and are ended only when `up` itself
ends: a live one is taken back by the next agent.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from trainplane.up.record import read_children

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from trainplane.up.layout import Layout

#: Names the data directory in every child's environment.
MARKER = "TRAINPLANE_UP"
#: Set by agents in every process of an attempt, to the name of its directory (docs/trainer-contract.md).
ATTEMPT_MARKER = "TRAINPLANE_ATTEMPT"
#: psutil derives a start from the boot time, which may shift by a clock tick.
_START_TOLERANCE_SECONDS = 2.0
_KILL_SECONDS = 5.0
_LOOK_SECONDS = 0.02


def end_children(layout: Layout, *, within: timedelta, tell: Callable[[str], None]) -> None:
    """End what an earlier `up` of this data directory left, saying so: SIGTERM, and SIGKILL after `within`. Blocks."""
    marked = [process for process, data_dir in _with(MARKER) if data_dir == str(layout.data_dir)]
    left = {process.pid: process for process in (*_recorded(layout), *marked)}
    if not left:
        return
    pids = ", ".join(str(pid) for pid in sorted(left))
    tell(f"an earlier `trainplane up` was killed and left processes behind; ending them: pid {pids}")
    _end(list(left.values()), seconds=within.total_seconds())


def end_trainers(layout: Layout) -> None:
    """Kill the processes of this data directory's attempts that no agent ended. Blocks for a moment."""
    try:
        attempts = {folder.name: folder for folder in (layout.agent / "attempts").iterdir()}
    except OSError:
        return
    _end([process for process, name in _with(ATTEMPT_MARKER) if name in attempts], seconds=0)
    for folder in attempts.values():
        _remove_groups(folder)


def _remove_groups(attempt: Path) -> None:
    """The control groups that an agent noted (docs/trainer-contract.md), once nobody is in them."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        for group in json.loads((attempt / "group.json").read_text())["paths"]:
            with contextlib.suppress(FileNotFoundError):
                Path(group).rmdir()


def _recorded(layout: Layout) -> list[psutil.Process]:
    found = []
    for child in read_children(layout.children_json):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(child.pid)
            if abs(process.create_time() - child.start_time) < _START_TOLERANCE_SECONDS:
                found.append(process)
    return found


def _with(variable: str) -> list[tuple[psutil.Process, str]]:
    """This user's processes that have a variable in their environment, with its value."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            value = process.environ().get(variable)
            if value is not None and process.pid != os.getpid():
                found.append((process, value))
    return found


def _end(processes: list[psutil.Process], *, seconds: float) -> None:
    if seconds > 0:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        processes = _outlasting(processes, seconds)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _outlasting(processes, _KILL_SECONDS)


def _outlasting(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after so long; one that nobody reaps has ended, where `psutil.wait_procs` would wait on."""
    end = time.monotonic() + seconds
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    return left


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
