"""A trainer as a process of its own, started as an agent would, but for the shim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.support.whole_lines import whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]


class Process:
    """One attempt's trainer; its log is `logs/rank-0.log`."""

    def __init__(self, module: str, directory: Path) -> None:
        self.directory = directory
        (directory / "logs").mkdir(exist_ok=True)
        with (directory / "logs" / "rank-0.log").open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, str(directory)],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self.directory / "logs" / "rank-0.log").read_text()

    @property
    def lines(self) -> list[str]:
        return whole_lines(self.directory / "reports.jsonl")

    def kinds(self) -> list[str]:
        return [json.loads(line)["kind"] for line in self.lines]

    def ranks(self) -> dict[int, psutil.Process]:
        """The processes that train, by rank."""
        children = psutil.Process(self.popen.pid).children()
        return {int(child.cmdline()[-1]): child for child in children if "agent.trainer.rank" in child.cmdline()}

    def wait(self, seconds: float = 60) -> int:
        return self.popen.wait(seconds)


def starting() -> Iterator[type[Process] | object]:
    """For a fixture: a function that starts trainers, each of which is ended with the test."""
    started: list[Process] = []

    def begin(module: str, directory: Path) -> Process:
        started.append(Process(module, directory))
        return started[-1]

    yield begin
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()
