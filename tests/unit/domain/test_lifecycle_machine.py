"""The lifecycle as a state machine: any order of any news, and what must hold after each."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controlplane.domain import news as n
from controlplane.domain.errors import MoveNotAllowed
from controlplane.domain.event import TERMINAL_TYPES, render
from controlplane.domain.job import TERMINAL, Job, State
from controlplane.domain.lifecycle import EDGES, IllegalNews, advance, created
from tests.unit.domain.lifecycle_cases import NOW_US, news


class Lifecycle(RuleBasedStateMachine):
    """A job under whatever an at-least-once bus, users and failing nodes can bring."""

    @initialize()
    def begin(self):
        self.job = Job(
            uid="01J", project="default", job_id="j", state=State.QUEUED, max_attempts=2, last_sequence=1,
            update_time_us=NOW_US,
        )  # fmt: skip
        self.events = [created(self.job, now_us=NOW_US)]
        self.granted_attempts = set()

    @rule(kind=st.sampled_from(n.KINDS), stale=st.sampled_from([0, 0, 0, 0, 1]))
    def hear(self, kind, stale):
        before = self.job
        try:
            after, events = advance(before, news(kind, attempt=before.attempt - stale), now_us=NOW_US)
        except (MoveNotAllowed, IllegalNews):
            return
        if before.terminal:
            assert after is before, "a terminal state is final"
        if stale and kind in n.ATTEMPT_NEWS:
            assert after is before
        if after is before:
            assert events == ()
        if after.granted and not before.granted:
            self.granted_attempts.add(after.attempt)
        states = [before.state, *dict.fromkeys(event.state for event in events)]
        for a, b in pairwise(states):
            assert a == b or b in EDGES[a]
        if after.state is not before.state:
            assert events, "every change of state has an event"
            assert events[-1].state is after.state
        self.job = after
        self.events += events

    @invariant()
    def events_are_numbered_without_a_gap(self):
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))
        assert self.job.last_sequence == len(self.events)

    @invariant()
    def the_terminal_event_is_the_last_and_only_one(self):
        ends = [event for event in self.events if event.type in TERMINAL_TYPES]
        assert len(ends) == (1 if self.job.state in TERMINAL else 0)
        assert not ends or ends[0] is self.events[-1]

    @invariant()
    def success_was_granted_to_one_attempt(self):
        assert len(self.granted_attempts) <= 1
        if self.job.state is State.SUCCEEDED:
            assert self.granted_attempts == {self.job.attempt}
        if self.granted_attempts and self.job.state in {State.CANCELLED, State.RECOVERING, State.PAUSED}:
            raise AssertionError("what was granted can only succeed, or fail")

    @invariant()
    def every_event_can_be_rendered(self):
        for event in self.events[-2:]:
            assert render(event).startswith('{"specversion":"1.0"')


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
