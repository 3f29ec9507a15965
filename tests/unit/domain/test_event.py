"""The one JSON of an event."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.event import Event, EventType, progress_fields, render, timestamp
from controlplane.domain.job import Progress, State

floats = st.floats(allow_nan=False, allow_infinity=False)
events = st.builds(
    Event,
    uid=st.from_regex(r"[0-9A-Z]{26}", fullmatch=True),
    project=st.just("default"),
    job_id=st.from_regex(r"[A-Za-z0-9_-]{1,63}", fullmatch=True),
    sequence=st.integers(1, 2**31),
    type=st.sampled_from(EventType),
    attempt=st.integers(0, 99),
    time_us=st.integers(0, 4_000_000_000_000_000),
    state=st.sampled_from(State),
    phase=st.text(),
    reason=st.text(),
    message=st.text(),
    progress=st.none() | st.builds(Progress, step=st.integers(0, 9), total_steps=st.integers(0, 9), loss=floats),
)


@given(events)
def test_it_is_what_the_encoder_would_write(event):
    time = timestamp(event.time_us)
    data = {
        "job_id": event.job_id,
        "uid": event.uid,
        "sequence": event.sequence,
        "type": event.type.value,
        "attempt": event.attempt,
        "time": time,
        "state": event.state.value,
        "phase": event.phase,
        "reason": event.reason,
        "message": event.message,
    }
    if event.progress is not None:
        data["progress"] = progress_fields(event.progress)
    whole = {
        "specversion": "1.0",
        "id": f"{event.uid}.{event.sequence}",
        "source": "/trainplane/default",
        "type": event.type.value,
        "subject": event.job_id,
        "time": time,
        "datacontenttype": "application/json",
        "sequence": f"{event.sequence:010d}",
        "data": data,
    }
    assert render(event) == json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def test_a_number_that_is_not_finite_is_refused():
    event = Event(
        "u", "p", "j", 1, EventType.PROGRESS, 1, 0, State.RUNNING, "", "", "", Progress(1, 2, loss=float("nan"))
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(event)


def test_a_time_has_microseconds_and_says_utc():
    assert timestamp(1_469_918_176_385_001) == "2016-07-30T22:36:16.385001Z"
