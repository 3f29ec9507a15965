"""Processes beside the measured ones: clients and references, started by module name, spoken to by lines."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.stack import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Peer:
    """A running one."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def tell(self, command: dict[str, Any]) -> None:
        """Sends one line of JSON."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def line(self) -> str:
        """Its next line; blocks until there is one.

        Raises:
            AssertionError: it ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.process.args} ended with {self.process.wait()}"
        return line.strip()

    def answer(self) -> Any:
        """Its next line, read as JSON."""
        return json.loads(self.line())


@contextmanager
def peer(module: str, *argv: str) -> Iterator[Peer]:
    """Runs `python -m <module>` for the time of the context; it is told to end by its stdin's end, then killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    try:
        yield Peer(process)
    finally:
        process.kill()
        process.communicate()
