"""The wish that a training ends after the step that it is in, with a last checkpoint (ADR 0029).

    SIGTERM, deadline ─► warden (one rank), or leader ─ a byte to each rank ─► STOP.ask ─► the loop

The loop sums it up with the gradients, so that all ranks stop after the same step. Only a training that makes steps has
something to keep: anywhere else nobody heeds the wish, and who asked ends the process at once. Standard library alone:
the leader and the fake use it.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.trainer.failures import describe_deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

TERMINATED_STATUS = 143
PATIENCE_SECONDS = 30.0
"""For the step and the checkpoint, where the assignment does not say."""
LONGEST_SECONDS = 10 * 365 * 86400.0
"""No deadline: sigtimedwait wants a number that fits C's time."""


class Stopped(BaseException):
    """The training ended as it was asked to; what could be kept is kept. No error: what handles those lets it pass."""


class Stop:
    """The wish of one process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heeding = False
        self._asked = False
        self.by_deadline = False
        """Whether it was the deadline that asked first."""

    @property
    def asked(self) -> bool:
        """Whether the training is to end after the step that it is in."""
        return self._asked

    def ask(self, *, by_deadline: bool = False) -> bool:
        """Ask for it; False: nobody heeds it, for no step is being made. Repeatable."""
        with self._lock:
            if self._heeding and not self._asked:
                self._asked, self.by_deadline = True, by_deadline
            return self._heeding

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Heed the wish while steps are made.

        Raises:
            Stopped: it came too late for the last step. What the loop itself raises goes first.
        """
        with self._lock:
            self._heeding = True
        try:
            yield
        finally:
            with self._lock:
                late, self._heeding, self._asked = self._asked, False, False
        if late:
            raise Stopped


STOP = Stop()
"""This process'."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an attempt is ended before it has finished."""

    directory: str
    deadline_seconds: float | None
    """Of its start; None: it has none."""
    patience_seconds: float
    """For the step that it is in and the last checkpoint; 0: there is to be none."""
    output_uri: str = ""
    uid: str = ""

    @property
    def seconds(self) -> float:
        """Until the deadline, as `sigtimedwait` takes it."""
        given = LONGEST_SECONDS if self.deadline_seconds is None else self.deadline_seconds
        return min(max(0.0, given), LONGEST_SECONDS)

    def checkpoint_wanted(self) -> bool:
        """Whether there is to be a last checkpoint: not if who stops the attempt says so in `stop.json`."""
        try:
            with open(self.directory + "/stop.json", "rb") as file:  # noqa: PTH123 - the fake starts without pathlib
                wanted = bool(json.load(file).get("checkpoint", True))
        except (OSError, ValueError, AttributeError):
            wanted = True
        return wanted and self.patience_seconds > 0

    def exceeded(self) -> str:
        """The message of DEADLINE_EXCEEDED; it says which state is kept, so of a training that makes no more steps."""
        from pathlib import Path

        from agent.wording import kept

        return describe_deadline(self.seconds) + kept(Path(self.directory), output_uri=self.output_uri, uid=self.uid)
