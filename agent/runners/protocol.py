"""What every runner promises.

            start ─────► (alive) ──► gone ──► sweep
    take_back ─┘            └──► stop ──────────┘

A runner keeps no state of its own that a restarted agent would miss: the `Process` that `start` returns, and what it
noted in the attempt's directory, are all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agent.cgroups import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

    from agent.cgroups import MemoryUse
    from agent.run import AttemptKey, Process


class LaunchError(Exception):
    """The trainer could not be started; `str()` says why in words. Nothing was left running."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a trainer is started.

    Attributes:
        key: which attempt; its marker is added to the environment.
        argv: the trainer's command line. Never a shell string, never holding a secret.
        directory: the attempt's; becomes the working directory. The exit status is written to `exit` in it.
        environment: the whole environment, the marker excepted.
        bounds: what all processes of the attempt may use together, where the host can see to it.
        first_rank: the number of the first rank; stdout and stderr go to its log.
        warm: it may be forked from a process that has imported what trainers need; `argv` is then a Python's.
    """

    key: AttemptKey
    argv: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)
    warm: bool = False
    first_rank: int = 0

    @property
    def log(self) -> Path:
        """Where stdout and stderr go."""
        return self.directory / "logs" / f"rank-{self.first_rank}.log"


class Runner(Protocol):
    """Starts, watches and ends trainers. A trainer outlives the runner's own process."""

    name: str

    def start(self, launch: Launch) -> Process:
        """Start the trainer in a session of its own. Returns in about a millisecond; if it is forked, in some 30.

        Raises:
            LaunchError: it could not be started.
        """
        ...

    def find(self, key: AttemptKey) -> Process | None:
        """The trainer that an agent started and died before it could note it; None: there is none."""
        ...

    def alive(self, process: Process) -> bool:
        """Whether this very process, and not a later one of its number, still runs."""
        ...

    async def gone(self, key: AttemptKey, process: Process) -> None:
        """Wait until the trainer has ended, however it was started. Can be cancelled without effect.

        Where one process of the attempt was killed for want of memory, the others are killed too.
        """
        ...

    def memory(self, key: AttemptKey) -> MemoryUse | None:
        """What the attempt used of its memory, also after it was stopped; None: that is not known here."""
        ...

    async def show_stacks(self, key: AttemptKey, process: Process | None) -> None:
        """Have those processes of the attempt that catch SIGUSR1 write their stacks to their logs, one after the other.

        Returns when they have, and after a second for each that does not.
        """
        ...

    async def stop(self, key: AttemptKey, process: Process | None, grace: timedelta) -> None:
        """End every process of the attempt: ask the trainer, wait up to `grace`, then kill all.

        Returns only when none is left, a grandchild in a session of its own included. Repeatable.
        """
        ...
