"""Tells the agent how far a fetch is: a JSON line on stdout every second.

How much has arrived is what the disk holds, whoever brought it there: one way for the hub, S3 and https alike. A line
that nobody reads any more ends the process, also one that waits for a hub that says nothing: it must not be in the way
of the next agent's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_EVERY_SECONDS = 1.0


class Teller:
    """Tells phases at once, and bytes from a thread of its own, which ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = ""
        self._filling: tuple[Path, int] | None = None
        threading.Thread(target=self._run, name="telling", daemon=True).start()

    def phase(self, phase: str) -> None:
        """Something else is fetched now."""
        with self._lock:
            self._phase, self._filling = phase, None
        self._tell()

    def expects(self, directory: Path, size_bytes: int) -> None:
        """A directory fills, up to a size."""
        with self._lock:
            self._filling = (directory, size_bytes)
        self._tell()

    def waiting(self) -> None:
        """Another job fetches the same; nothing arrives here meanwhile."""
        self._print({"phase": self._phase, "waiting": True})

    def _run(self) -> None:
        beat = threading.Event()
        while not beat.wait(_EVERY_SECONDS):
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            phase, filling = self._phase, self._filling
        if not phase:
            return
        line: dict[str, Any] = {"phase": phase}
        if filling is not None:
            directory, total = filling
            line |= {"done_bytes": min(_size_bytes(directory), total), "total_bytes": total}
        self._print(line)

    def _print(self, line: dict[str, Any]) -> None:
        with self._lock:
            try:
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
            except OSError:
                # The agent is gone; the next one's child goes on with what is here.
                os._exit(1)


def _size_bytes(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118  # called each second
            except FileNotFoundError:
                continue
    return total
