"""The lifecycle: its golden matrix, its law of edges, and single rules that deserve a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.domain import news as n
from controlplane.domain.errors import MoveNotAllowed
from controlplane.domain.event import EventType
from controlplane.domain.job import Progress, State
from controlplane.domain.lifecycle import EDGES, IllegalNews, advance
from controlplane.domain.retry import MAX_LOSSES
from tests.support.golden import as_committed
from tests.unit.domain.lifecycle_cases import NOW_US, job, news

GOLDEN = Path(__file__).parents[2] / "golden" / "lifecycle.txt"


def cell(state: State, kind: type, *, granted: bool) -> str:
    before = job(state, granted=granted)
    try:
        after, events = advance(before, news(kind), now_us=NOW_US)
    except MoveNotAllowed:
        return "not allowed"
    except IllegalNews:
        return "illegal"
    if after is before:
        return "ignored"
    told = " ".join(f"{event.type.value}>{event.state.value}" for event in events)
    return f"{after.state.value}{' granted' if after.granted and not granted else ''}  [{told}]"


def matrix() -> str:
    lines = []
    for state in State:
        for granted in (False, True):
            if granted and state not in {State.RUNNING, State.PAUSING}:
                continue
            lines.append(f"{state.value}{' (commit granted)' if granted else ''}")
            lines += [f"  {kind.__name__:<14} {cell(state, kind, granted=granted)}" for kind in n.KINDS]
            lines.append("")
    return "\n".join(lines)


def test_the_whole_matrix_is_as_committed():
    as_committed(GOLDEN, matrix())


def test_a_checkpoint_is_told_with_its_step_and_changes_nothing_else():
    before = job(State.RUNNING, reason="R", message="m", phase="TRAINING")
    after, [told] = advance(before, n.Checkpointed(1, 40, 4096, "00", 20), now_us=NOW_US)
    assert (told.type, told.reason, told.message) == (EventType.CHECKPOINT_SAVED, "", "step 40")
    assert after == replace(before, last_sequence=6, update_time_us=NOW_US)


def test_success_tells_what_training_came_to():
    before = replace(
        job(State.RUNNING, granted=True), progress=Progress(3, 3, loss=1.5, eval_loss_before=2.5, eval_loss=1.0)
    )
    after, [told] = advance(before, news(n.Published), now_us=NOW_US)
    assert (after.state, told.type, told.progress) == (State.SUCCEEDED, EventType.SUCCEEDED, before.progress)


def test_the_edges_are_those_of_the_contract():
    law = (
        "QUEUED -> STARTING PAUSED CANCELLED FAILED; STARTING -> RUNNING PAUSING RECOVERING CANCELLING FAILED; "
        "RUNNING -> PAUSING RECOVERING CANCELLING SUCCEEDED FAILED; "
        "PAUSING -> PAUSED RECOVERING CANCELLING SUCCEEDED FAILED; PAUSED -> QUEUED CANCELLED; "
        "RECOVERING -> QUEUED PAUSED CANCELLING FAILED; CANCELLING -> CANCELLED"
    )
    edges = {
        State(a): {State(b) for b in bs.split()} for a, _, bs in (rule.partition(" -> ") for rule in law.split("; "))
    }
    assert {state: set(to) for state, to in EDGES.items() if to} == edges


@pytest.mark.parametrize("kind", n.ATTEMPT_NEWS)
@pytest.mark.parametrize("state", list(State))
def test_news_of_another_attempt_is_ignored_everywhere(state, kind):
    before = job(state, attempt=3)
    for stale in (2, 4):
        after, events = advance(before, news(kind, attempt=stale), now_us=NOW_US)
        assert after is before
        assert events == ()


def test_a_crash_is_tried_again_until_max_attempts_and_then_fails_with_its_own_reason():
    running = job(State.RUNNING, max_attempts=2)
    recovering, events = advance(running, news(n.Failed), now_us=NOW_US)
    assert (recovering.state, recovering.failures) == (State.RECOVERING, 1)
    assert recovering.not_before_us > NOW_US
    assert [e.type for e in events] == [EventType.RECOVERING]
    again = job(State.RUNNING, max_attempts=2, failures=1)
    failed, _ = advance(again, news(n.Failed), now_us=NOW_US)
    assert (failed.state, failed.reason, failed.message) == (State.FAILED, "TRAINER_CRASHED", "exit status 1")
    assert failed.end_time_us == NOW_US


def test_a_mistake_of_the_users_is_not_tried_again():
    failed, _ = advance(job(State.RUNNING), n.Failed(1, "DATASET_INVALID", "row 7"), now_us=NOW_US)
    assert failed.state is State.FAILED


def test_lost_nodes_have_their_own_budget():
    lost, _ = advance(job(State.RUNNING, max_attempts=1, losses=MAX_LOSSES - 1), news(n.Lost), now_us=NOW_US)
    assert (lost.state, lost.failures, lost.losses) == (State.RECOVERING, 0, MAX_LOSSES)
    over, _ = advance(job(State.RUNNING, losses=MAX_LOSSES), news(n.Lost), now_us=NOW_US)
    assert (over.state, over.reason) == (State.FAILED, "NODE_LOST")


def test_after_the_grant_a_cancel_loses_and_a_lost_node_changes_nothing():
    granted = job(State.RUNNING, granted=True)
    with pytest.raises(MoveNotAllowed, match="about to succeed"):
        advance(granted, n.Cancel(), now_us=NOW_US)
    assert advance(granted, news(n.Lost), now_us=NOW_US)[0] is granted
    done, _ = advance(granted, n.Published(1), now_us=NOW_US)
    assert done.state is State.SUCCEEDED


def test_a_torn_first_line_does_not_lose_the_job():
    after, events = advance(job(State.STARTING), news(n.Progressed), now_us=NOW_US)
    assert after.state is State.RUNNING
    assert [e.type for e in events] == [EventType.STARTED, EventType.PROGRESS]
    assert [e.sequence for e in events] == [6, 7]


def test_a_pausing_job_whose_node_is_lost_ends_up_paused():
    lost, _ = advance(job(State.PAUSING), news(n.Lost), now_us=NOW_US)
    assert lost.state is State.RECOVERING
    paused, _ = advance(lost, n.Requeued(), now_us=NOW_US)
    assert paused.state is State.PAUSED


def test_cancelling_a_job_that_recovers_from_a_lost_node_says_so():
    lost, _ = advance(job(State.RUNNING), news(n.Lost), now_us=NOW_US)
    cancelled, events = advance(lost, n.Cancel(), now_us=NOW_US)
    assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "NODE_LOST")
    assert [e.type for e in events] == [EventType.CANCELLING, EventType.CANCELLED]


@pytest.mark.parametrize("phase", ["FETCHING_MODEL", "PREPARING_DATA"])
def test_what_a_node_does_before_the_trainer_runs_does_not_start_the_job(phase):
    fetching, events = advance(job(State.STARTING), n.PhaseChanged(1, phase, "1 of 13 GB"), now_us=NOW_US)
    assert (fetching.state, fetching.phase, fetching.message) == (State.STARTING, phase, "1 of 13 GB")
    assert [(e.type, e.message) for e in events] == [(EventType.PHASE_CHANGED, "1 of 13 GB")]
    further, events = advance(fetching, n.PhaseChanged(1, phase, "2 of 13 GB"), now_us=NOW_US)
    assert [(e.type, e.message) for e in events] == [(EventType.PHASE_CHANGED, "2 of 13 GB")]
    again, events = advance(further, n.PhaseChanged(1, phase, "2 of 13 GB"), now_us=NOW_US)
    assert again is further
    running, _ = advance(further, n.Started(1), now_us=NOW_US)
    assert (running.state, running.message) == (State.RUNNING, "")
