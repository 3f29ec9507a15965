"""What every runner promises.

            start ─────► (alive) ──► gone ──► sweep
    take_back ─┘            └──► stop ──────────┘

A runner keeps no state of its own that a restarted agent would miss: the `Process` that `start` returns is all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

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
    """

    key: AttemptKey
    argv: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Runner(Protocol):
    """Starts, watches and ends trainers. A trainer outlives the runner's own process."""

    name: str

    def start(self, launch: Launch) -> Process:
        """Start the trainer in a session of its own. Returns in about a millisecond.

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

    async def gone(self, process: Process) -> None:
        """Wait until the trainer has ended, however it was started. Can be cancelled without effect."""
        ...

    async def stop(self, key: AttemptKey, process: Process | None, grace: timedelta) -> None:
        """End every process of the attempt: ask the trainer, wait up to `grace`, then kill all.

        Returns only when none is left, a grandchild in a session of its own included. Repeatable.
        """
        ...
