from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.ids import ulid


def test_the_example_of_the_specification_has_its_time_part():
    assert ulid(1_469_918_176_385_000, 0) == "01ARYZ6S41" + "0" * 16
    assert ulid(0, 0) == "0" * 26
    assert ulid(0, 2**80 - 1) == "0" * 10 + "Z" * 16


@given(st.integers(0, 2**45), st.integers(0, 2**45), st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1))
def test_ids_sort_by_their_milliseconds(a, b, x, y):
    first, second = ulid(a * 1000, x), ulid(b * 1000, y)
    assert len(first) == 26
    if a != b:
        assert (first < second) == (a < b)
