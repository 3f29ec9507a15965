"""What trainers write, seen from outside: their attempts' directories."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LOOK_SECONDS = 0.004


def first_line_time(directory: Path, *, deadline_seconds: float = 30.0) -> float:
    """When the trainer of this attempt wrote its first line, by its own clock; waits for it.

    Raises:
        AssertionError: there is none within the deadline.
    """
    reports = directory / "reports.jsonl"
    end = time.monotonic() + deadline_seconds
    while time.monotonic() < end:
        if reports.exists() and b"\n" in (content := reports.read_bytes()):
            line = json.loads(content.partition(b"\n")[0])
            assert line["kind"] == "started", f"the first line of {directory.name} is {line['kind']}"
            return seconds_of(line["time"])
        time.sleep(_LOOK_SECONDS)
    raise AssertionError(f"no first line in {directory} within {deadline_seconds} s")


def first_step_time(directory: Path, *, deadline_seconds: float) -> float:
    """When the trainer of this attempt had made its first optimizer step, by its own clock; waits for it.

    Raises:
        AssertionError: it has failed, or made none within the deadline.
    """
    reports = directory / "reports.jsonl"
    end = time.monotonic() + deadline_seconds
    while time.monotonic() < end:
        whole = reports.read_bytes().rpartition(b"\n")[0].splitlines() if reports.exists() else []
        for line in map(json.loads, whole):
            assert line["kind"] != "failed", f"{directory.name}: {line['message']}"
            if line["kind"] == "progress":
                return seconds_of(line["time"])
        time.sleep(_LOOK_SECONDS)
    raise AssertionError(f"no step in {directory} within {deadline_seconds} s")


def seconds_of(rfc3339: str) -> float:
    """Unix seconds of a report's time."""
    return datetime.fromisoformat(rfc3339).timestamp()
