"""What is done next: (wanted, actual, now) -> actions. Pure; without a clock, files or processes.

Each attempt has two lanes that go on independently, one action at a time each: ASK (the claim's answer, which carries
secrets and the reports' watermark and is asked for again after a restart) and the way of the process itself. The
supervisor carries an action out, changes the facts, and plans again; so a restart in the middle of anything is nothing
special.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.run import AttemptKey, Commit, Run, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

#: The kernel's `sysconf(SC_CLK_TCK)`, 100 on every Linux that runs Python.
TICKS_PER_SECOND = 100
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
STALLED = "STALLED"
PEER_ENDED = "PEER_ENDED"
"""Of a gang: another node's part has ended, and with it the attempt. Its ranks can make no further step."""
#: Stops after which nobody goes on from there, or that come for a trainer which has had its time already.
_HASTY = frozenset({"CANCELLED", "SUPERSEDED", "LOST", "FINISHED", PEER_ENDED, DEADLINE_EXCEEDED, STALLED})


class Do(enum.Enum):
    """What can be done with an attempt."""

    ADOPT = "make its directory, with the claim's nonce"
    ASK = "ask for the claim's answer until there is one"
    CHECK = "see that what it will write can be written"
    FETCH = "bring its model and datasets here"
    RESUME = "bring an earlier attempt's newest checkpoint here"
    START = "start the trainer"
    ORDER_STOP = "write down that it must stop, and why"
    KILL = "end every process of it"
    SWEEP = "see that the trainer left no process behind"
    SHIP_LOG = "send the log to its end"
    STAGE = "upload the output to its staging prefix"
    COMMIT = "ask whether it may publish until there is an answer"
    PUBLISH = "bring the staged output to its place"
    NOTE_FAILED = "write the line `failed`"
    NOTE_STOPPED = "write the line `stopped`"
    NOTE_PUBLISHED = "push it to the hub if that is wanted, and write the line `published`"
    REMOVE = "remove its directory"


#: What a stop order may interrupt; everything else is short, or must not be torn.
INTERRUPTIBLE = frozenset({Do.CHECK, Do.FETCH, Do.RESUME, Do.KILL, Do.SHIP_LOG, Do.STAGE, Do.COMMIT})


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `reason` comes with ORDER_STOP only; `own`: the agent itself wants the stop."""

    do: Do
    key: AttemptKey
    reason: str = ""
    own: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the control plane said last. Silence about an attempt wants nothing of it."""

    claim: tuple[AttemptKey, ...] = ()
    stop: Mapping[AttemptKey, str] = field(default_factory=dict)
    settled: frozenset[AttemptKey] = frozenset()


def plan(wanted: Wanted, actual: Mapping[AttemptKey, Run], now: float, *, deadline_grace: timedelta) -> list[Action]:
    """All that can be done now, at most one action a lane of an attempt.

    Args:
        wanted: the last reply's content.
        actual: the facts about every attempt on this node.
        now: seconds since the host's boot.
        deadline_grace: the trainer ends itself at its deadline; the agent does it this much later, should it hang.
    """
    actions = [Action(Do.ADOPT, key) for key in wanted.claim if key not in actual and key not in wanted.stop]
    for key, run in actual.items():
        if run.ended and run.started and not run.log_shipped:
            # The trainer told its failure itself: devices are free already, and its log is what people read then.
            actions.append(Action(Do.SHIP_LOG, key))
        elif run.ended and (key in wanted.settled or (run.claim_refused and not run.started)):
            actions.append(Action(Do.REMOVE, key))
            continue
        if not run.asked and not run.claim_refused:
            actions.append(Action(Do.ASK, key))
        if run.ended:
            continue
        overdue = now >= (_deadline(run) or math.inf) + deadline_grace.total_seconds()
        step = _step(run, wanted.stop.get(key, ""), overdue=overdue)
        if step is not None:
            actions.append(step)
    return actions


def next_deadline(actual: Mapping[AttemptKey, Run], *, deadline_grace: timedelta) -> float | None:
    """When time alone next changes the plan; None: never."""
    deadlines = [_deadline(run) for run in actual.values() if run.alive and not run.stop_reason]
    first = min((deadline for deadline in deadlines if deadline is not None), default=None)
    return None if first is None else first + deadline_grace.total_seconds()


def _step(run: Run, stop: str, *, overdue: bool) -> Action | None:
    """The next step of the process' lane; None: wait for news."""
    # Who waits for a last checkpoint, and is cancelled meanwhile, waits no longer.
    hurried = hasty(stop) and bool(run.stop_reason) and not hasty(run.stop_reason)
    if stop and (hurried or not run.stop_reason) and stoppable(run):
        return Action(Do.ORDER_STOP, run.key, stop)
    if run.alive and not run.stop_reason:
        reason = DEADLINE_EXCEEDED if overdue else STALLED if run.stalled else ""
        return Action(Do.ORDER_STOP, run.key, reason, own=True) if reason else None
    do = _next(run)
    return None if do is None else Action(do, run.key)


def _next(run: Run) -> Do | None:  # noqa: PLR0911  # a table, in the order of its rows
    stopping = bool(run.stop_reason) and stoppable(run)
    if not run.started and not stopping:
        if run.claim_refused:
            return Do.REMOVE
        return _starting(run)
    if run.alive or not run.swept:
        return Do.KILL if stopping else Do.SWEEP
    if run.last_kind in {"failed", "stopped", "published"}:
        return None
    if not run.log_shipped:
        return Do.SHIP_LOG
    if stopping:
        return Do.NOTE_FAILED if run.own_stop else Do.NOTE_STOPPED
    if run.last_kind == "finished" and run.exit_status in {0, None}:
        return _publishing(run)
    return Do.NOTE_FAILED


def _starting(run: Run) -> Do | None:
    if not run.asked or run.assignment is None:
        return None
    if run.assignment.writes_far and not run.checked:
        return Do.CHECK
    if run.assignment.fetches and not run.fetched:
        return Do.FETCH
    # The ranks of other nodes get the state from the first.
    return Do.RESUME if run.key.number > 1 and run.assignment.leads and not run.resumed else Do.START


def _publishing(run: Run) -> Do | None:
    if run.assignment is not None and not run.assignment.leads:
        return None  # the first node publishes; this one is told to stop when nothing is left to do
    if run.published:
        # A push needs the job's token, which comes with the claim's answer.
        pushes = run.assignment is not None and run.assignment.pushes
        return None if pushes and not (run.asked or run.claim_refused) else Do.NOTE_PUBLISHED
    if run.commit is Commit.GRANTED:
        return Do.PUBLISH
    if run.commit is Commit.REFUSED:
        return None
    return Do.COMMIT if run.staged_digest else Do.STAGE


def hasty(reason: str) -> bool:
    """Whether a stop for that reason waits for no last checkpoint."""
    return reason in _HASTY


def stoppable(run: Run) -> bool:
    """A granted commit is rolled forward, and what has its last line needs no stop."""
    return run.stage is not Stage.PUBLISHING and run.last_kind not in {"failed", "stopped", "published"}


def _deadline(run: Run) -> float | None:
    if run.process is None or run.assignment is None or run.assignment.deadline_seconds is None:
        return None
    return run.process.start_ticks / TICKS_PER_SECOND + run.assignment.deadline_seconds
