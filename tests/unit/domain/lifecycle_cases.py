"""Every (state, kind of news) pair, for the golden matrix and the state machine."""

from __future__ import annotations

from controlplane.domain import news as n
from controlplane.domain.job import Job, Progress, State

NOW_US = 1_800_000_000_000_000


def job(state: State, *, granted: bool = False, attempt: int = 1, **fields) -> Job:
    return Job(
        uid="01JXXXXXXXXXXXXXXXXXXXXXXX",
        project="default",
        job_id="j",
        state=state,
        attempt=attempt,
        granted=granted,
        last_sequence=5,
        **fields,
    )


def news(kind: type, attempt: int = 1) -> n.News:
    """One piece of news of a kind, about this attempt."""
    of = {
        n.Assigned: lambda: n.Assigned(attempt + 1, "gpu-01"),
        n.Refused: lambda: n.Refused("MODEL_NOT_FOUND", "no such model"),
        n.Fetched: lambda: n.Fetched(attempt, "0123456789abcdef"),
        n.PhaseChanged: lambda: n.PhaseChanged(attempt, "TRAINING"),
        n.Progressed: lambda: n.Progressed(attempt, Progress(step=1, total_steps=2)),
        n.Warned: lambda: n.Warned(attempt, "TRUNCATED", "3 rows were cut"),
        n.Checkpointed: lambda: n.Checkpointed(attempt, 40, 4096, "00", 20),
        n.Failed: lambda: n.Failed(attempt, "TRAINER_CRASHED", "exit status 1"),
        n.Stopped: lambda: n.Stopped(attempt, "CANCELLED"),
        n.Lost: lambda: n.Lost(attempt, "NODE_LOST", "silent"),
    }
    if kind in of:
        return of[kind]()
    return kind(attempt) if kind in n.ATTEMPT_NEWS else kind()
