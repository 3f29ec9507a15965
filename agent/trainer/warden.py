"""Ends the process from outside the training: at SIGTERM, and at the attempt's deadline.

A Python signal handler runs only between bytecodes of the main thread, and one matrix product of a large
model takes seconds. So SIGTERM is blocked everywhere and awaited by a thread of its own. It asks the training for a
last checkpoint (`stopping.py`), and ends the process whatever the main thread computes: at once where there is none to
be had, else when its patience is over. Nothing needs cleaning up: reports are single writes, and `output/` counts only
after `finished`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from agent.trainer.stopping import STOP, TERMINATED_STATUS

if TYPE_CHECKING:
    from agent.trainer.reports import Reports
    from agent.trainer.stopping import Terms

FAILED_STATUS = 1


def start(reports: Reports, terms: Terms, *, heed_sigterm: bool = True) -> None:
    """Watch from now on. Call from the main thread before any other thread exists (they inherit the signal mask).

    Args:
        reports: gets the DEADLINE_EXCEEDED; once it has ended, the warden lets the process finish by itself.
        terms: the attempt's; its deadline counts from now.
        heed_sigterm: False only in a fake that has to be killed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    awaited = {signal.SIGTERM} if heed_sigterm else set()
    threading.Thread(target=_watch, args=(reports, terms, awaited), name="warden", daemon=True).start()


def conclude(reports: Reports, terms: Terms) -> int:
    """The end of a training that stopped as it was asked to; the exit status."""
    if not STOP.by_deadline:
        return TERMINATED_STATUS
    reports.failed("DEADLINE_EXCEEDED", terms.exceeded())
    return FAILED_STATUS


def _watch(reports: Reports, terms: Terms, awaited: set[signal.Signals]) -> None:
    overdue = signal.sigtimedwait(awaited, terms.seconds) is None
    if reports.ended:
        return
    hurried = not overdue and not terms.checkpoint_wanted()
    if not hurried and terms.patience_seconds and STOP.ask(by_deadline=overdue):
        hurried = _wait(terms, awaited)
    if hurried or not overdue:
        _terminate(reports)
    elif reports.failed("DEADLINE_EXCEEDED", terms.exceeded()):
        os._exit(FAILED_STATUS)


def _terminate(reports: Reports) -> None:
    if not reports.ended:
        os._exit(TERMINATED_STATUS)


def _wait(terms: Terms, awaited: set[signal.Signals]) -> bool:
    """Give the training its time; True: it is stopped without a checkpoint meanwhile."""
    end = time.monotonic() + terms.patience_seconds
    while signal.sigtimedwait(awaited, max(0.0, end - time.monotonic())) is not None:
        # An agent that was restarted says the same again; but a stop may turn into a cancel.
        if not terms.checkpoint_wanted():
            return True
    return False
