"""Control groups that an agent which was killed by a test could not remove."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agent.cgroups import Group

if TYPE_CHECKING:
    from pathlib import Path

_GONE_SECONDS = 60.0


def remove_groups(data_dir: Path) -> None:
    """Kill and remove the groups of every attempt below an agent's data directory."""
    for attempt in data_dir.glob("attempts/*"):
        group, end = Group.noted(attempt), time.monotonic() + _GONE_SECONDS
        group.kill()
        while not group.remove():
            assert time.monotonic() < end, f"{group} is not empty"
            time.sleep(0.01)
