"""How a piece of a training ended: well, or with the reason and the message that the job will show.

The one place of the trainer where every exception ends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.trainer import failures

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("trainer")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A failure, ready for a `failed` report."""

    reason: str
    message: str
    own: bool = True
    """Whether the trainer foresaw it; else the message is a library's error or a traceback."""


def judge(work: Callable[[], Verdict | None]) -> Verdict | None:
    """Do the work; None if it ended well, else what it answered or what its exception means."""
    try:
        verdict = work()
    except Exception as error:
        own = isinstance(error, failures.TrainingFailure)
        reason, message = failures.describe(error)
        log.log(logging.ERROR, "failed reason=%s %s", reason, message, exc_info=None if own else error)
        return Verdict(reason, message, own=own)
    if verdict is not None:
        log.error("failed reason=%s %s", verdict.reason, verdict.message)
    return verdict


def log_to_stderr() -> None:
    """Set up logging: stderr is the attempt's log."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
