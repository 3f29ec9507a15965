"""Ends the process from outside the training: at SIGTERM, and at the attempt's deadline.

A Python signal handler runs only between bytecodes of the main thread, and one matrix product of a large
model takes seconds. So SIGTERM is blocked everywhere and awaited by a thread of its own, which ends the
process whatever the main thread computes. Nothing needs cleaning up: reports are single writes, and `output/`
counts only after `finished`.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from agent.trainer.failures import describe_deadline

if TYPE_CHECKING:
    from agent.trainer.reports import Reports

TERMINATED_STATUS = 143
FAILED_STATUS = 1
LONGEST_SECONDS = 10 * 365 * 86400.0
"""No deadline: sigtimedwait wants a number that fits C's time."""


def start(reports: Reports, deadline_seconds: float | None, *, heed_sigterm: bool = True) -> None:
    """Watch from now on. Call from the main thread before any other thread exists (they inherit the signal mask).

    Args:
        reports: gets the DEADLINE_EXCEEDED; once it has ended, the warden lets the process finish by itself.
        deadline_seconds: from now; None for no deadline.
        heed_sigterm: False only in a fake that has to be killed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    awaited = {signal.SIGTERM} if heed_sigterm else set()
    threading.Thread(target=_watch, args=(reports, deadline_seconds, awaited), name="warden", daemon=True).start()


def _watch(reports: Reports, deadline_seconds: float | None, awaited: set[signal.Signals]) -> None:
    seconds = LONGEST_SECONDS if deadline_seconds is None else min(max(0.0, deadline_seconds), LONGEST_SECONDS)
    terminated = signal.sigtimedwait(awaited, seconds) is not None
    if reports.ended:
        return
    if terminated:
        os._exit(TERMINATED_STATUS)
    if reports.failed("DEADLINE_EXCEEDED", describe_deadline(seconds)):
        os._exit(FAILED_STATUS)
