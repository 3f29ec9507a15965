"""How series are put together and thinned."""

from __future__ import annotations

import json
import math
from array import array

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.metrics import Curve, Curves, Measured, MetricChunk, chunk, thinned


def stored(attempt: int, sequence: int, steps: list[int], **series: list[float]) -> MetricChunk:
    return chunk(Measured(steps, series), job_uid="u", attempt=attempt, sequence=sequence)


def points(curve: Curve) -> list[tuple[int, float]]:
    return list(zip(curve.steps, curve.values, strict=True))


def curve(values: list[float]) -> Curve:
    return Curve(array("q", range(1, len(values) + 1)), array("d", values))


def test_a_chunk_says_its_range_and_writes_down_what_is_missing():
    made = stored(2, 7, [5, 6, 9], loss=[1.5, math.nan, 1.0])
    assert (made.attempt, made.sequence, made.first_step, made.last_step, made.points) == (2, 7, 5, 9, 3)
    assert json.loads(made.series) == {"step": [5, 6, 9], "loss": [1.5, None, 1.0]}


def test_chunks_follow_each_other_and_missing_values_are_no_points():
    curves = Curves({1: 1})
    curves.add([stored(1, 1, [1, 2], loss=[3.0, 2.5], grad_norm=[math.nan, 0.5])])
    curves.add([stored(1, 2, [3], loss=[2.0])])
    assert points(curves.by_name["loss"]) == [(1, 3.0), (2, 2.5), (3, 2.0)]
    assert points(curves.by_name["grad_norm"]) == [(2, 0.5)]


def test_a_later_attempt_replaces_the_steps_from_its_first_one_on():
    curves = Curves({1: 1, 2: 3, 4: 2})
    curves.add([stored(1, 1, [1, 2, 3], loss=[1.1, 1.2, 1.3]), stored(1, 2, [4, 5], loss=[1.4, 1.5])])
    curves.add([stored(2, 1, [3, 4], loss=[2.3, 2.4])])
    curves.add([stored(4, 9, [2, 3], loss=[4.2, 4.3])])
    assert points(curves.by_name["loss"]) == [(1, 1.1), (2, 4.2), (3, 4.3)]


def test_a_later_attempt_that_resumed_keeps_what_came_before_it():
    curves = Curves({1: 1, 2: 101})
    curves.add([stored(1, n, [n], loss=[float(n)]) for n in range(1, 151)])
    curves.add([stored(2, n, [100 + n], loss=[-1.0]) for n in range(1, 3)])
    assert [step for step, value in points(curves.by_name["loss"]) if value > 0] == list(range(1, 101))
    assert points(curves.by_name["loss"])[100:] == [(101, -1.0), (102, -1.0)]


def test_a_step_that_is_told_twice_is_shown_once():
    curves = Curves({1: 1})
    curves.add([stored(1, 1, [1, 2], loss=[1.0, 2.0]), stored(1, 2, [2, 3], loss=[9.0, 3.0])])
    assert points(curves.by_name["loss"]) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_short_curve_is_left_as_it_is():
    assert points(thinned(curve([1.0, 2.0, 3.0]), 10)) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_of_a_long_one_the_ends_and_every_spike_stay():
    values = [2.0 - step / 10_000 for step in range(10_000)]
    values[4_321], values[7_000] = 99.0, -5.0
    shown = points(thinned(curve(values), 100))
    assert len(shown) <= 100
    assert shown[0] == (1, 2.0)
    assert shown[-1] == (10_000, values[-1])
    assert (4_322, 99.0) in shown
    assert (7_001, -5.0) in shown


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=300), st.integers(4, 60))
def test_what_is_shown_is_a_part_of_the_curve_within_the_bound_with_its_extremes(values, most):
    whole = curve(values)
    shown = points(thinned(whole, most))
    assert len(shown) <= most
    assert shown == sorted(shown, key=lambda point: point[0])
    assert set(shown) <= set(points(whole))
    assert (shown[0], shown[-1]) == (points(whole)[0], points(whole)[-1])
    assert {min(values), max(values)} <= {value for _, value in shown}
