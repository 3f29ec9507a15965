"""The plan: examples of each rule, and properties over every state that facts can be in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan import DEADLINE_EXCEEDED, INTERRUPTIBLE, STALLED, Action, Do, Wanted, next_deadline, plan
from agent.run import Assignment, AttemptKey, Commit, Gang, Process, Run, Stage

KEY = AttemptKey("01J", 1)
ASSIGNMENT = Assignment(KEY, "demo", "default", {}, (), 100.0)
PROCESS = Process(7, 1000, "boot")
GRACE = timedelta(seconds=30)
DEADLINE = 1000 / 100 + 100 + 30

CLAIMED = Run(KEY, asked=True, assignment=ASSIGNMENT)
RUNNING = replace(CLAIMED, started=True, process=PROCESS, alive=True)
EXITED = replace(RUNNING, alive=False, exit_status=0, swept=True, log_shipped=True)
FINISHED = replace(EXITED, last_kind="finished")


def todo(run: Run | None, *, wanted: Wanted | None = None, now: float = 0.0) -> list[Do]:
    actual = {} if run is None else {run.key: run}
    return [action.do for action in plan(wanted or Wanted(), actual, now, deadline_grace=GRACE)]


def stop(reason: str = "CANCELLED") -> Wanted:
    return Wanted(stop={KEY: reason})


def test_a_wanted_attempt_that_is_not_here_is_adopted() -> None:
    assert todo(None, wanted=Wanted(claim=(KEY,))) == [Do.ADOPT]


def test_a_wanted_attempt_that_is_here_is_not_adopted_again() -> None:
    assert todo(RUNNING, wanted=Wanted(claim=(KEY,))) == []


def test_an_attempt_wanted_and_stopped_in_one_reply_is_not_adopted() -> None:
    assert todo(None, wanted=Wanted(claim=(KEY,), stop={KEY: "CANCELLED"})) == []


def test_a_node_that_does_not_lead_a_gang_trains_and_leaves_the_rest_to_the_first() -> None:
    member = replace(ASSIGNMENT, gang=Gang(nodes=2, node=1, first_rank=2, address="a", port=1))
    first = replace(ASSIGNMENT, gang=replace(member.gang, node=0, first_rank=0))
    again, finished = replace(CLAIMED, key=AttemptKey("01J", 2)), replace(FINISHED, staged_digest="")
    assert todo(replace(again, assignment=first)) == [Do.RESUME]
    assert todo(replace(again, assignment=member)) == [Do.START]
    assert todo(replace(finished, assignment=first)) == [Do.STAGE]
    assert todo(replace(finished, assignment=member)) == []
    stopping = replace(finished, assignment=member, stop_reason="FINISHED")
    assert todo(stopping) == [Do.NOTE_STOPPED]


def test_a_gang_s_assignment_is_read_as_it_was_written() -> None:
    gang = Gang(nodes=2, node=1, first_rank=2, address="10.0.0.1", port=4000, interface="eth0")
    given = replace(ASSIGNMENT, world_size=4, gang=gang)
    assert Assignment.parse(given.to_json()) == given
    assert (given.leads, given.first_rank) == (False, 2)
    assert Assignment.parse(ASSIGNMENT.to_json()).gang is None


def test_the_way_of_an_attempt_that_goes_well() -> None:
    assert todo(Run(KEY)) == [Do.ASK]
    assert todo(CLAIMED) == [Do.START]
    assert todo(RUNNING) == []
    assert todo(replace(FINISHED, swept=False, log_shipped=False)) == [Do.SWEEP]
    assert todo(replace(FINISHED, log_shipped=False)) == [Do.SHIP_LOG]
    assert todo(FINISHED) == [Do.STAGE]
    staged = replace(FINISHED, staged_digest="d")
    assert todo(staged) == [Do.COMMIT]
    granted = replace(staged, commit=Commit.GRANTED)
    assert todo(granted) == [Do.PUBLISH]
    assert todo(replace(granted, published=True)) == [Do.NOTE_PUBLISHED]
    pushes = replace(granted, published=True, assignment=replace(ASSIGNMENT, spec={"export": {"push_to_hub": "a/b"}}))
    assert todo(replace(pushes, asked=True)) == [Do.NOTE_PUBLISHED]
    assert todo(replace(pushes, asked=False)) == [Do.ASK], "its token is not here yet"
    assert todo(replace(pushes, asked=False, claim_refused=True)) == [Do.NOTE_PUBLISHED]
    ended = replace(granted, published=True, last_kind="published")
    assert todo(ended) == []
    assert todo(ended, wanted=Wanted(settled=frozenset({KEY}))) == [Do.REMOVE]


def test_a_failure_that_the_trainer_told_itself_is_removed_only_once_its_log_is_sent_to_its_end() -> None:
    failed = replace(EXITED, exit_status=1, last_kind="failed", log_shipped=False)
    settled = Wanted(settled=frozenset({KEY}))
    assert failed.stage is Stage.ENDED
    assert todo(failed) == todo(failed, wanted=settled) == [Do.SHIP_LOG]
    shipped = replace(failed, log_shipped=True)
    assert (todo(shipped), todo(shipped, wanted=settled)) == ([], [Do.REMOVE])


FETCHING = [
    {"base_model": {"provider": "huggingface"}},
    {"base_model": {"provider": "s3"}},
    {"base_model": {"provider": "local", "weights_url": "https://example.com/model.safetensors"}},
    {"base_model": {"provider": "local"}, "datasets": [{"source": "file:///a"}, {"source": "s3://bucket/b"}]},
]
HERE = [
    {"base_model": {"provider": "local"}, "datasets": [{"source": "file:///a"}]},
    {"base_model": {"provider": "local"}, "artifacts": {"output_uri": "file:///out/", "log_uri": "file:///logs/"}},
    {"backend": "mock", "base_model": {"provider": "huggingface"}, "datasets": [{"source": "s3://bucket/b"}]},
]


@pytest.mark.parametrize("spec", FETCHING)
def test_what_lies_elsewhere_is_fetched_once_the_claim_is_answered_and_before_the_trainer_starts(spec) -> None:
    claimed = replace(CLAIMED, assignment=replace(ASSIGNMENT, spec=spec))
    assert todo(replace(claimed, asked=False)) == [Do.ASK]
    assert todo(claimed) == [Do.FETCH]
    assert todo(replace(claimed, fetched=True)) == [Do.START]
    assert todo(replace(claimed, stop_reason="CANCELLED")) == [Do.KILL]
    assert todo(replace(claimed, swept=True, last_kind="failed")) == []


@pytest.mark.parametrize("spec", HERE)
def test_what_is_here_already_starts_at_once(spec) -> None:
    assert todo(replace(CLAIMED, assignment=replace(ASSIGNMENT, spec=spec))) == [Do.START]


def test_a_fetch_that_is_under_way_is_cut_off_by_a_stop_order() -> None:
    claimed = replace(CLAIMED, assignment=replace(ASSIGNMENT, spec=FETCHING[0]))
    assert todo(claimed, wanted=stop()) == [Do.ORDER_STOP]
    assert Do.FETCH in INTERRUPTIBLE


def test_what_goes_to_an_object_store_is_checked_before_the_trainer_starts() -> None:
    far = {"artifacts": {"output_uri": "s3://bucket/x/"}}
    near = {"artifacts": {"output_uri": "file:///x/", "log_uri": "s3://bucket/logs/"}}
    for spec in (far, near):
        claimed = replace(CLAIMED, assignment=replace(ASSIGNMENT, spec=spec))
        assert todo(claimed) == [Do.CHECK]
        assert todo(claimed, wanted=stop()) == [Do.ORDER_STOP]
        assert todo(replace(claimed, checked=True)) == [Do.START]


def test_a_live_trainer_of_a_restarted_agent_is_asked_for_its_claim_again_and_left_alone() -> None:
    assert todo(replace(RUNNING, asked=False)) == [Do.ASK]


def test_an_ended_attempt_of_a_restarted_agent_is_asked_for_its_watermark() -> None:
    ended = replace(FINISHED, last_kind="published", published=True, asked=False)
    assert todo(ended) == [Do.ASK]


def test_only_a_refused_attempt_that_never_started_is_removed_without_being_settled() -> None:
    assert todo(Run(KEY, claim_refused=True)) == [Do.REMOVE]
    assert todo(replace(RUNNING, asked=False, claim_refused=True)) == []
    assert todo(replace(FINISHED, asked=False, claim_refused=True)) == [Do.STAGE]


def test_a_refused_commit_waits_for_a_stop_order() -> None:
    refused = replace(FINISHED, staged_digest="d", commit=Commit.REFUSED)
    assert todo(refused) == []
    assert todo(refused, wanted=stop()) == [Do.ORDER_STOP]
    assert todo(replace(refused, stop_reason="CANCELLED")) == [Do.NOTE_STOPPED]


def test_a_stop_order_is_written_down_then_carried_out_then_told() -> None:
    assert todo(RUNNING, wanted=stop()) == [Do.ORDER_STOP]
    stopping = replace(RUNNING, stop_reason="CANCELLED")
    assert todo(stopping) == [Do.KILL]
    killed = replace(stopping, alive=False, swept=True)
    assert todo(killed) == [Do.SHIP_LOG]
    assert todo(replace(killed, log_shipped=True)) == [Do.NOTE_STOPPED]


def test_an_attempt_that_never_started_is_stopped_too() -> None:
    assert todo(replace(CLAIMED, stop_reason="CANCELLED")) == [Do.KILL]


def test_a_granted_commit_is_rolled_forward_whatever_is_ordered() -> None:
    granted = replace(FINISHED, staged_digest="d", commit=Commit.GRANTED)
    assert todo(granted, wanted=stop()) == [Do.PUBLISH]


def test_a_failure_of_the_trainers_own_needs_no_second_line() -> None:
    failed = replace(EXITED, exit_status=1, last_kind="failed", swept=False)
    assert todo(failed) == [Do.SWEEP]
    assert todo(replace(failed, swept=True)) == []
    assert replace(failed, swept=True).stage is Stage.ENDED


def test_an_exit_without_a_last_line_is_a_failure() -> None:
    assert todo(EXITED) == [Do.NOTE_FAILED]
    assert todo(replace(EXITED, exit_status=None)) == [Do.NOTE_FAILED]


def test_a_bad_exit_after_finished_is_a_failure_and_an_unknown_one_is_not() -> None:
    assert todo(replace(FINISHED, exit_status=-11)) == [Do.NOTE_FAILED]
    assert todo(replace(FINISHED, exit_status=None)) == [Do.STAGE]


def test_a_trainer_that_stalls_is_stopped_by_the_agent_itself_and_fails_for_that() -> None:
    stalled = replace(RUNNING, stalled=True)
    (action,) = plan(Wanted(), {KEY: stalled}, 0.0, deadline_grace=GRACE)
    assert action == Action(Do.ORDER_STOP, KEY, STALLED, own=True)
    ordered = replace(stalled, stop_reason=STALLED, own_stop=True)
    assert todo(ordered) == [Do.KILL]
    gone = replace(ordered, alive=False, swept=True, log_shipped=True)
    assert todo(gone) == [Do.NOTE_FAILED]


def test_only_a_stop_that_wants_no_last_checkpoint_hurries_one_that_waits_for_it() -> None:
    pausing = replace(RUNNING, stop_reason="PAUSED")
    assert plan(stop("CANCELLED"), {KEY: pausing}, 0.0, deadline_grace=GRACE) == [
        Action(Do.ORDER_STOP, KEY, "CANCELLED")
    ]
    assert Do.KILL in INTERRUPTIBLE
    assert todo(pausing, wanted=stop("PREEMPTED")) == [Do.KILL]
    assert todo(replace(RUNNING, stop_reason="CANCELLED"), wanted=stop("SUPERSEDED")) == [Do.KILL]
    granted = replace(pausing, alive=False, commit=Commit.GRANTED, swept=True, log_shipped=True, last_kind="finished")
    assert Do.ORDER_STOP not in todo(granted, wanted=stop("CANCELLED"))


def test_a_trainer_past_its_deadline_and_the_grace_is_stopped_by_the_agent_itself() -> None:
    assert todo(RUNNING, now=DEADLINE - 0.1) == []
    actions = plan(Wanted(), {KEY: RUNNING}, DEADLINE, deadline_grace=GRACE)
    assert actions == [Action(Do.ORDER_STOP, KEY, DEADLINE_EXCEEDED, own=True)]
    assert next_deadline({KEY: RUNNING}, deadline_grace=GRACE) == DEADLINE
    own = replace(EXITED, exit_status=None, stop_reason=DEADLINE_EXCEEDED, own_stop=True)
    assert todo(own) == [Do.NOTE_FAILED]


def test_without_a_deadline_time_changes_nothing() -> None:
    endless = replace(RUNNING, assignment=replace(ASSIGNMENT, deadline_seconds=None))
    assert todo(endless, now=1e12) == []
    assert next_deadline({KEY: endless}, deadline_grace=GRACE) is None


def test_a_later_attempt_looks_for_a_checkpoint_before_it_starts() -> None:
    second = replace(CLAIMED, key=AttemptKey("01J", 2))
    assert todo(second) == [Do.RESUME]
    assert Do.RESUME in INTERRUPTIBLE
    assert todo(replace(second, resumed=True)) == [Do.START]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    started = draw(st.booleans())
    return Run(
        KEY,
        asked=draw(st.booleans()),
        claim_refused=draw(st.booleans()),
        assignment=ASSIGNMENT if started else draw(st.sampled_from([None, ASSIGNMENT])),
        started=started,
        process=draw(st.sampled_from([None, PROCESS])) if started else None,
        alive=started and draw(st.booleans()),
        swept=draw(st.booleans()),
        exit_status=draw(st.sampled_from([None, 0, 1, -9])),
        last_kind=draw(st.sampled_from(["", "finished", "failed", "stopped", "published"])),
        stop_reason=draw(st.sampled_from(["", "CANCELLED", DEADLINE_EXCEEDED])),
        own_stop=draw(st.booleans()),
        log_shipped=draw(st.booleans()),
        staged_digest=draw(st.sampled_from(["", "d"])),
        commit=draw(st.sampled_from(Commit)),
        published=draw(st.booleans()),
    )


wishes = st.builds(
    Wanted,
    claim=st.sampled_from([(), (KEY,)]),
    stop=st.sampled_from([{}, {KEY: "CANCELLED"}]),
    settled=st.sampled_from([frozenset(), frozenset({KEY})]),
)
instants = st.sampled_from([0.0, DEADLINE + 1])


@given(run=runs(), wanted=wishes, now=instants)
def test_no_plan_is_ever_dangerous(run: Run, wanted: Wanted, now: float) -> None:
    for action in plan(wanted, {KEY: run}, now, deadline_grace=GRACE):
        match action.do:
            case Do.START:
                assert not run.started
                assert run.asked
                assert not run.claim_refused
            case Do.FETCH:
                assert not run.started
                assert run.asked
                assert not run.fetched
            case Do.RESUME:
                assert not run.started
                assert run.asked
                assert not run.resumed
            case Do.KILL:
                assert run.stop_reason
            case Do.ORDER_STOP:
                assert KEY in wanted.stop or now > DEADLINE
                assert not run.stop_reason
            case Do.PUBLISH:
                assert run.commit is Commit.GRANTED
                assert not run.alive
            case Do.NOTE_STOPPED | Do.NOTE_FAILED | Do.NOTE_PUBLISHED:
                assert run.swept
                assert not run.alive
                assert run.last_kind not in {"failed", "stopped", "published"}
            case Do.REMOVE:
                assert not run.alive
                assert run.ended or not run.started


@given(run=runs(), wanted=wishes, now=instants)
def test_each_lane_of_an_attempt_has_at_most_one_thing_to_do(run: Run, wanted: Wanted, now: float) -> None:
    planned = [action.do for action in plan(wanted, {KEY: run}, now, deadline_grace=GRACE)]
    assert planned.count(Do.ASK) <= 1
    assert len([do for do in planned if do is not Do.ASK]) <= 1


#: What each action changes when it succeeds, for the walk below.
EFFECTS: dict[Do, dict[str, object]] = {
    Do.ASK: {"asked": True, "assignment": ASSIGNMENT},
    Do.FETCH: {"fetched": True},
    Do.RESUME: {"resumed": True},
    Do.START: {"started": True, "process": PROCESS, "alive": True},
    Do.ORDER_STOP: {"stop_reason": "CANCELLED"},
    Do.KILL: {"alive": False, "swept": True},
    Do.SWEEP: {"swept": True},
    Do.SHIP_LOG: {"log_shipped": True},
    Do.STAGE: {"staged_digest": "d"},
    Do.PUBLISH: {"published": True},
    Do.NOTE_FAILED: {"last_kind": "failed"},
    Do.NOTE_STOPPED: {"last_kind": "stopped"},
    Do.NOTE_PUBLISHED: {"last_kind": "published"},
}


@given(
    data=st.data(),
    stop_at=st.integers(0, 12),
    ending=st.sampled_from([("finished", 0), ("failed", 1), ("", -9), ("finished", -11), ("", 0)]),
    answer=st.sampled_from([Commit.GRANTED, Commit.REFUSED]),
)
def test_every_walk_ends_with_one_last_line_and_no_process(
    data: st.DataObject, stop_at: int, ending: tuple[str, int], answer: Commit
) -> None:
    run = Run(KEY)
    kinds: list[str] = []
    for step in range(40):
        wanted = stop() if step >= stop_at else Wanted()
        actions = plan(wanted, {KEY: run}, 0.0, deadline_grace=GRACE)
        if run.ended or (not actions and not run.alive):
            break
        if run.alive and (not actions or data.draw(st.booleans())):
            run = replace(run, alive=False, last_kind=ending[0], exit_status=ending[1])
            continue
        action = data.draw(st.sampled_from(actions))
        before = run.last_kind
        effect = {"commit": answer} if action.do is Do.COMMIT else EFFECTS[action.do]
        run = replace(run, **effect)
        kinds += [run.last_kind] if run.last_kind != before else []
    else:
        raise AssertionError(f"no end: {run}")
    assert not run.alive
    terminal = [kind for kind in kinds if kind in {"failed", "stopped", "published"}]
    if run.ended:
        assert len(terminal) <= 1
        assert run.last_kind in {"failed", "stopped", "published"}
    else:
        assert run.commit is Commit.REFUSED
