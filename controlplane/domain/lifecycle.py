"""The lifecycle of a job: one table, one pure function.

     QUEUED ─► STARTING ─► RUNNING ─► SUCCEEDED
       ▲  ▲        │          │  └──► PAUSING ─► PAUSED ─┐
       │  └─ RECOVERING ◄─────┤ (attempt lost, budget left)
       └──────────────────────┼──────────────────────────┘
                              └► CANCELLING ─► CANCELLED, and FAILED from wherever an attempt may fail

`advance(job, news)` looks the pair (state, kind of news) up in `TABLE` and answers the job as it is then, with the
events to record. Three things may happen: the job *moves*; the news is *ignored* (stale attempt, or a repeat: normal on
an at-least-once bus; the very same job comes back); or the pair is *illegal*: `IllegalNews`, our bug. A user's command
that the state does not allow is neither: `MoveNotAllowed`, an answer to the user.

The whole matrix is a golden file (tests/golden/lifecycle.txt): a changed cell shows in review.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from controlplane.domain import news as n
from controlplane.domain import retry
from controlplane.domain.errors import MoveNotAllowed
from controlplane.domain.event import Event, EventType
from controlplane.domain.job import TERMINAL, Job, State

Q, ST, R, PG, PD = State.QUEUED, State.STARTING, State.RUNNING, State.PAUSING, State.PAUSED
RC, CG, S, F, C = State.RECOVERING, State.CANCELLING, State.SUCCEEDED, State.FAILED, State.CANCELLED

#: docs/api.md's list of edges, the law.
EDGES: dict[State, frozenset[State]] = {
    Q: frozenset({ST, PD, C, F}),
    ST: frozenset({R, PG, RC, CG, F}),
    R: frozenset({PG, RC, CG, S, F}),
    PG: frozenset({PD, RC, CG, S, F}),
    PD: frozenset({Q, C}),
    RC: frozenset({Q, PD, CG, F}),
    CG: frozenset({C}),
    S: frozenset(),
    F: frozenset(),
    C: frozenset(),
}


#: Events that say how far training is, or was at its end.
_WITH_PROGRESS = frozenset({EventType.PROGRESS, EventType.SUCCEEDED})


class IllegalNews(Exception):  # noqa: N818 - it says what happened
    """This kind of news cannot reach a job in this state: a bug of ours, or an agent that lies."""


class _Course:
    """A job on its way through one piece of news: moves it and collects the events."""

    __slots__ = ("events", "job", "now_us")

    def __init__(self, job: Job, now_us: int) -> None:
        self.job = job
        self.now_us = now_us
        self.events: list[Event] = []

    def change(self, **fields: Any) -> None:
        """Changes fields without an event."""
        self.job = replace(self.job, **fields)

    def move(self, state: State, event: EventType, **fields: Any) -> None:
        """Moves along an edge, and records it."""
        if state not in EDGES[self.job.state]:
            raise IllegalNews(f"no edge from {self.job.state} to {state}")
        if state in TERMINAL:
            fields["end_time_us"] = self.now_us
        self.job = replace(self.job, state=state, **fields)
        self.tell(event)

    def tell(self, event: EventType, *, reason: str | None = None, message: str | None = None) -> None:
        """Records an event with the job as it is now."""
        job = self.job
        sequence = job.last_sequence + 1
        self.job = job = replace(job, last_sequence=sequence, update_time_us=self.now_us)
        self.events.append(
            Event(
                uid=job.uid,
                project=job.project,
                job_id=job.job_id,
                sequence=sequence,
                type=event,
                attempt=job.attempt,
                time_us=self.now_us,
                state=job.state,
                phase=job.phase,
                reason=job.reason if reason is None else reason,
                message=job.message if message is None else message,
                progress=job.progress if event in _WITH_PROGRESS else None,
            )
        )


_Step = Callable[[_Course, Any], None]


def _ignore(_course: _Course, _news: Any) -> None:
    """Normal: a repeat, or too late to matter."""


def _assigned(course: _Course, news: n.Assigned) -> None:
    if news.number != course.job.attempt + 1:
        raise IllegalNews(f"attempt {news.number} after attempt {course.job.attempt}")
    course.move(ST, EventType.STARTING, attempt=news.number, granted=False, phase="", reason="", message="")


def _refused(course: _Course, news: n.Refused) -> None:
    course.move(F, EventType.FAILED, reason=news.reason, message=news.message)


def _started(course: _Course, _news: Any) -> None:
    # The message was how far the fetching of its inputs is.
    course.move(R, EventType.STARTED, start_time_us=course.job.start_time_us or course.now_us, message="")


def _started_first(then: _Step) -> _Step:
    """A first line that was torn must not lose the job: any later news of the trainer says that it runs."""

    def step(course: _Course, news: Any) -> None:
        _started(course, news)
        then(course, news)

    return step


def _phase(course: _Course, news: n.PhaseChanged) -> None:
    if (news.phase, news.message) != (course.job.phase, course.job.message):
        course.change(phase=news.phase, message=news.message)
        course.tell(EventType.PHASE_CHANGED)


def _phase_starting(course: _Course, news: n.PhaseChanged) -> None:
    """What its node does before a trainer runs does not start it; a phase of the trainer's own says that it runs."""
    if news.phase not in _BEFORE_TRAINER:
        _started(course, news)
    _phase(course, news)


def _progress(course: _Course, news: n.Progressed) -> None:
    course.change(progress=news.progress)
    course.tell(EventType.PROGRESS)


def _warning(course: _Course, news: n.Warned) -> None:
    course.tell(EventType.WARNING, reason=news.reason, message=news.message)


def _checkpoint(course: _Course, news: n.Checkpointed) -> None:
    course.tell(EventType.CHECKPOINT_SAVED, reason="", message=f"step {news.step}")


def _finished(course: _Course, _news: n.Finished) -> None:
    _phase(course, n.PhaseChanged(course.job.attempt, "UPLOADING"))


def _granted(course: _Course, _news: n.CommitGranted) -> None:
    if not course.job.granted:
        course.change(granted=True)


def _published(course: _Course, _news: n.Published) -> None:
    if not course.job.granted:
        raise IllegalNews("published without a grant")
    course.move(S, EventType.SUCCEEDED, phase="", reason="", message="")


def _failed(course: _Course, news: n.Failed) -> None:
    policy = retry.Policy.NEVER if course.job.granted else retry.policy(news.reason)
    if policy is retry.Policy.INFRASTRUCTURE:
        _lost(course, news)
        return
    failures = course.job.failures + 1
    if policy is retry.Policy.NEVER or failures >= course.job.max_attempts:
        course.move(F, EventType.FAILED, failures=failures, reason=news.reason, message=news.message)
        return
    course.move(
        RC,
        EventType.RECOVERING,
        failures=failures,
        phase="",
        reason=news.reason,
        message=news.message,
        pause_wanted=course.job.state is PG,
        not_before_us=course.now_us + int(retry.delay(failures).total_seconds() * 1e6),
    )


def _lost(course: _Course, news: n.Lost | n.Failed) -> None:
    if course.job.granted:
        return  # what was granted is rolled forward, by this node when it is back
    losses = course.job.losses + 1
    if losses > retry.MAX_LOSSES:
        course.move(F, EventType.FAILED, losses=losses, reason=news.reason, message=news.message)
        return
    course.move(
        RC,
        EventType.RECOVERING,
        losses=losses,
        phase="",
        reason=news.reason,
        message=news.message,
        pause_wanted=course.job.state is PG,
        not_before_us=course.now_us,
    )


def _stopped_granted(course: _Course, news: n.Stopped) -> None:
    """No process is left to publish what only this attempt may: another one would be a second grant."""
    _failed(
        course, n.Failed(news.attempt, "ARTIFACTS_LOST", "its node stopped the attempt while its output was published")
    )


def _stopped_unasked(course: _Course, news: n.Stopped) -> None:
    if course.job.granted:
        _stopped_granted(course, news)
        return
    _lost(
        course, n.Lost(news.attempt, "PREEMPTED", f"its node stopped the attempt ({news.reason or 'no reason given'})")
    )


def _paused(course: _Course, _news: Any) -> None:
    course.move(PD, EventType.PAUSED, phase="", reason="", message="", pause_wanted=False)


def _stopped_pausing(course: _Course, news: n.Stopped) -> None:
    if course.job.granted:
        _stopped_granted(course, news)
    else:
        _paused(course, news)


def _requeued(course: _Course, news: n.Requeued) -> None:
    if course.job.pause_wanted:
        _paused(course, news)
    else:
        course.move(Q, EventType.QUEUED, phase="")


def _cancel_now(course: _Course, _news: n.Cancel) -> None:
    course.move(C, EventType.CANCELLED, phase="", reason="", message="", pause_wanted=False)


def _cancel(course: _Course, _news: n.Cancel) -> None:
    if course.job.granted:
        raise MoveNotAllowed(
            state=course.job.state,
            wanted="cancel",
            why="its output is already being published and it is about to succeed",
        )
    course.move(CG, EventType.CANCELLING, reason="", message="")


def _cancel_recovering(course: _Course, news: n.Cancel) -> None:
    """No attempt is live: its processes are gone, or were given up with their node; or, of a gang, are being ended."""
    reason = course.job.reason if course.job.reason == "NODE_LOST" else ""
    course.move(CG, EventType.CANCELLING, reason=reason, message="")
    if not news.waits:
        course.move(C, EventType.CANCELLED, phase="", pause_wanted=False)


def _cancelled(course: _Course, _news: Any) -> None:
    course.move(C, EventType.CANCELLED, phase="", reason="", message="")


def _cancelled_lost(course: _Course, news: n.Lost) -> None:
    course.move(C, EventType.CANCELLED, phase="", reason=news.reason, message=news.message)


def _pause_now(course: _Course, news: n.Pause) -> None:
    _paused(course, news)


def _pause(course: _Course, _news: n.Pause) -> None:
    if course.job.granted:
        raise MoveNotAllowed(
            state=course.job.state,
            wanted="pause",
            why="its output is already being published and it is about to succeed",
        )
    course.move(PG, EventType.PAUSING)


def _resume(course: _Course, _news: n.Resume) -> None:
    course.move(Q, EventType.QUEUED, reason="", message="")


def _not_allowed(course: _Course, news: Any) -> None:
    raise MoveNotAllowed(
        state=course.job.state,
        wanted=type(news).__name__.lower(),
        why="it is over" if course.job.terminal else "that makes no sense in this state",
    )


#: What the node itself does, before a trainer runs.
_BEFORE_TRAINER = frozenset({"FETCHING_MODEL", "PREPARING_DATA"})
_TRAINER: dict[type, _Step] = {
    n.Fetched: _ignore,
    n.Started: _ignore,
    n.PhaseChanged: _phase,
    n.Progressed: _progress,
    n.Warned: _warning,
    n.Checkpointed: _checkpoint,
    n.Finished: _finished,
    n.CommitGranted: _granted,
    n.Published: _published,
}
_OVER: dict[type, _Step] = dict.fromkeys(n.ATTEMPT_NEWS, _ignore)

_ROWS: dict[State, dict[type, _Step]] = {
    Q: {
        **_OVER,
        n.Assigned: _assigned,
        n.Refused: _refused,
        n.Cancel: _cancel_now,
        n.Pause: _pause_now,
        n.Resume: _ignore,
    },
    ST: {
        **{kind: _started_first(step) for kind, step in _TRAINER.items()},
        n.Fetched: _ignore,
        n.PhaseChanged: _phase_starting,
        n.Started: _started,
        n.Failed: _failed,
        n.Stopped: _stopped_unasked,
        n.Lost: _lost,
        n.Cancel: _cancel,
        n.Pause: _pause,
        n.Resume: _not_allowed,
    },
    R: {
        **_TRAINER,
        n.Failed: _failed,
        n.Stopped: _stopped_unasked,
        n.Lost: _lost,
        n.Cancel: _cancel,
        n.Pause: _pause,
        n.Resume: _not_allowed,
    },
    PG: {
        **_TRAINER,
        n.Failed: _failed,
        n.Stopped: _stopped_pausing,
        n.Lost: _lost,
        n.Cancel: _cancel,
        n.Pause: _ignore,
        n.Resume: _not_allowed,
    },
    PD: {**_OVER, n.Cancel: _cancel_now, n.Pause: _ignore, n.Resume: _resume},
    RC: {
        **_OVER,
        n.Requeued: _requeued,
        n.Cancel: _cancel_recovering,
        n.Pause: _paused,
        n.Resume: _ignore,
    },
    CG: {
        **_OVER,
        n.CommitGranted: _not_allowed,
        n.Failed: _cancelled,
        n.Stopped: _cancelled,
        n.Lost: _cancelled_lost,
        n.Cancel: _ignore,
        n.Pause: _not_allowed,
        n.Resume: _not_allowed,
    },
    S: {**_OVER, n.Cancel: _not_allowed, n.Pause: _not_allowed, n.Resume: _not_allowed},
    F: {**_OVER, n.Cancel: _not_allowed, n.Pause: _not_allowed, n.Resume: _not_allowed},
    C: {**_OVER, n.Cancel: _ignore, n.Pause: _not_allowed, n.Resume: _not_allowed},
}
#: (state, kind of news) -> what happens. A missing pair is illegal.
TABLE: dict[tuple[State, type], _Step] = {
    (state, kind): step for state, row in _ROWS.items() for kind, step in row.items()
}


def created(job: Job, *, now_us: int) -> Event:
    """A new job's first event; `job` is as it will be stored: with `last_sequence` 1, changed now."""
    if (job.state, job.last_sequence, job.update_time_us) != (Q, 1, now_us):
        raise IllegalNews("a new job is QUEUED, with one event, changed now")
    return Event(
        uid=job.uid,
        project=job.project,
        job_id=job.job_id,
        sequence=1,
        type=EventType.QUEUED,
        attempt=0,
        time_us=now_us,
        state=Q,
        phase="",
        reason="",
        message="",
        progress=None,
    )


def advance(job: Job, news: n.News, *, now_us: int) -> tuple[Job, tuple[Event, ...]]:
    """What becomes of a job by one piece of news, and the events to record, numbered on from the job's last.

    Pure: the same input gives the same answer. Ignored news answers `(job, ())` with the very same object.

    Raises:
        MoveNotAllowed: a user's command that the state does not allow (also: the commit asked for while cancelling).
        IllegalNews: the pair is not in the table.
    """
    if isinstance(news, n.ATTEMPT_NEWS) and news.attempt != job.attempt:
        return job, ()
    step = TABLE.get((job.state, type(news)))
    if step is None:
        raise IllegalNews(f"{type(news).__name__} reached a job in {job.state}")
    course = _Course(job, now_us)
    step(course, news)
    return course.job, tuple(course.events)
