"""Effective batches and their micro-batches."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.trainer.data.order import (
    PassCost,
    Portion,
    effective_batches,
    epoch_order,
    halved,
    micro_batches,
    padded_tokens,
    plan,
    share,
)
from agent.trainer.data.packing import pack

if TYPE_CHECKING:
    from collections.abc import Iterator


def batches_of(count: int, *, batch_size: int, seed: int) -> Iterator[list[int]]:
    return effective_batches([Portion(0, count)], batch_size=batch_size, seed=seed)


def padded(lengths: list[int], groups: list[list[int]]) -> int:
    return sum(len(group) * max(lengths[index] for index in group) for group in groups)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    limit=st.integers(1, 2000),
    overhead=st.integers(0, 200),
)
def test_micro_batches_are_a_partition_within_the_limit(lengths: list[int], limit: int, overhead: int):
    groups = micro_batches(lengths, PassCost(limit=limit, overhead=overhead))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[index] for index in group) <= limit for group in groups)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=7), overhead=st.integers(0, 80))
def test_no_cut_of_the_sorted_examples_costs_less(lengths: list[int], overhead: int):
    cost = PassCost(limit=150, overhead=overhead)
    found = micro_batches(lengths, cost)
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])

    def cheapest(start: int) -> float:
        if start == len(order):
            return 0
        ends = [
            end
            for end in range(start + 1, len(order) + 1)
            if end == start + 1 or (end - start) * lengths[order[start]] <= cost.limit
        ]
        return min((end - start) * lengths[order[start]] + overhead + cheapest(end) for end in ends)

    assert padded(lengths, found) + overhead * len(found) == cheapest(0)


def test_examples_of_like_length_go_together():
    groups = micro_batches([10, 100, 11, 99, 10, 98], PassCost(limit=1000, overhead=20))
    assert [sorted(group) for group in groups] == [[1, 3, 5], [0, 2, 4]]


def test_an_example_longer_than_the_limit_has_a_pass_of_its_own():
    assert micro_batches([500, 400], PassCost(limit=100, overhead=10)) == [[0], [1]]


@given(count=st.integers(1, 50), batch_size=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_epoch_sees_every_example_once(count: int, batch_size: int, seed: int):
    steps = -(-count // batch_size)
    batches = list(islice(batches_of(count, batch_size=batch_size, seed=seed), 2 * steps))
    for epoch in (batches[:steps], batches[steps:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(count))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


def test_the_order_is_the_seed_s_and_changes_with_the_epoch():
    first, second = islice(batches_of(20, batch_size=20, seed=1), 2)
    assert first != second
    assert [first, second] == list(islice(batches_of(20, batch_size=20, seed=1), 2))
    assert first != next(batches_of(20, batch_size=20, seed=2))


@given(lengths=st.lists(st.integers(1, 300), max_size=70), size=st.integers(1, 8), seed=st.integers(0, 9))
def test_the_ranks_shares_are_a_partition_of_the_batch(lengths: list[int], size: int, seed: int):
    batch = next(batches_of(len(lengths), batch_size=len(lengths), seed=seed)) if lengths else []
    shares = [share(batch, lengths, rank=rank, size=size) for rank in range(size)]
    assert sorted(index for part in shares for index in part) == sorted(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_rank_takes_the_batch_as_it_is():
    assert share([3, 0, 2], [5, 1, 9, 9], rank=0, size=1) == [3, 0, 2]


def test_long_and_short_examples_are_dealt_so_that_ranks_need_not_wait():
    lengths = [100, 90, 80, 70, 40, 30, 20, 10]
    shares = [share(range(8), lengths, rank=rank, size=4) for rank in range(4)]
    assert shares == [[0, 7], [1, 6], [2, 5], [3, 4]]
    assert {sum(lengths[index] for index in part) for part in shares} == {110}


THREE = [Portion(0, 4, 1.0), Portion(4, 90, 2.0), Portion(94, 26, 1.0)]


def drawn_from(portion: Portion, order: list[int]) -> list[int]:
    return [number for number in order if portion.first <= number < portion.first + portion.count]


def test_a_weight_is_the_share_of_the_examples_of_an_epoch():
    order = epoch_order(THREE, seed=5, epoch=0)
    assert [len(drawn_from(portion, order)) for portion in THREE] == [30, 60, 30]
    assert len(order) == 120


def test_a_small_portion_repeats_itself_evenly_and_a_large_one_goes_on_in_the_next_epoch():
    epochs = [epoch_order(THREE, seed=5, epoch=epoch) for epoch in range(3)]
    for order in epochs:
        times = Counter(drawn_from(THREE[0], order))
        assert sorted(times) == [0, 1, 2, 3]
        assert set(times.values()) <= {7, 8}
    large = [number for order in epochs for number in drawn_from(THREE[1], order)]
    assert set(Counter(large).values()) == {2}  # 3 epochs of 60 are two rounds of 90


def test_the_weighted_order_is_the_seed_s_and_changes_with_the_epoch():
    assert epoch_order(THREE, seed=5, epoch=1) == epoch_order(THREE, seed=5, epoch=1)
    assert epoch_order(THREE, seed=5, epoch=1) != epoch_order(THREE, seed=5, epoch=2)
    assert epoch_order(THREE, seed=5, epoch=1) != epoch_order(THREE, seed=6, epoch=1)


@given(
    portions=st.lists(
        st.tuples(st.integers(1, 30), st.one_of(st.none(), st.floats(1e-6, 1e6))), min_size=1, max_size=6
    ),
    seed=st.integers(0, 9),
)
def test_an_epoch_has_as_many_examples_as_there_are_and_some_of_every_portion(
    portions: list[tuple[int, float | None]], seed: int
):
    made, first = [], 0
    for count, weight in portions:
        made.append(Portion(first, count, weight))
        first += count
    order = epoch_order(made, seed=seed, epoch=seed)
    assert len(order) == first
    assert all(drawn_from(portion, order) for portion in made)


def test_equal_weights_give_equal_shares_and_none_give_every_example_once():
    assert sorted(epoch_order([Portion(0, 2), Portion(2, 8)], seed=0, epoch=0)) == list(range(10))
    order = epoch_order([Portion(0, 2, 1.0), Portion(2, 8)], seed=0, epoch=0)
    assert Counter(number < 2 for number in order) == {True: 5, False: 5}


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=30),
    limit=st.integers(1, 2000),
    longest_row=st.integers(1, 600),
    overhead=st.integers(0, 100),
)
def test_a_packed_plan_is_a_partition_within_the_limits_and_no_dearer_than_padding(
    lengths: list[int], limit: int, longest_row: int, overhead: int
):
    cost = PassCost(limit=limit, overhead=overhead)
    made = plan(lengths, cost, longest_row=longest_row)
    assert sorted(index for rows in made for row in rows for index in row) == list(range(len(lengths)))
    tokens = [[sum(lengths[index] for index in row) for row in rows] for rows in made]
    assert all(row <= max(*lengths, longest_row) for rows in tokens for row in rows)
    assert all(len(rows) == 1 or len(rows) * max(rows) <= limit for rows in tokens)
    unpacked = plan(lengths, cost)
    assert padded_tokens(made, lengths) + overhead * len(made) <= 1.03 * (
        padded_tokens(unpacked, lengths) + overhead * len(unpacked)
    )


@pytest.mark.parametrize(("longest_row", "rows", "tokens"), [(0, 8, 720), (1024, 2, 600)])
def test_packing_leaves_little_padding(longest_row: int, rows: int, tokens: int):
    lengths = [300, 60, 60, 60, 30, 30, 30, 30]
    made = plan(lengths, PassCost(limit=100_000, overhead=200), longest_row=longest_row)
    assert (sum(map(len, made)), padded_tokens(made, lengths)) == (rows, tokens)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    limit=st.integers(1, 2000),
    overhead=st.integers(0, 100),
)
def test_side_by_side_nothing_is_padding_and_passes_are_as_few_as_first_fit_finds(
    lengths: list[int], limit: int, overhead: int
):
    made = plan(lengths, PassCost(limit=limit, overhead=overhead), side_by_side=True)
    assert all(len(rows) == 1 for rows in made)
    assert sorted(index for (row,) in made for index in row) == list(range(len(lengths)))
    assert padded_tokens(made, lengths) == sum(lengths)
    assert all(len(row) == 1 or sum(lengths[index] for index in row) <= limit for (row,) in made)
    assert len(made) == len(pack(lengths, row_tokens=limit))


def test_side_by_side_passes_are_as_equal_as_they_can_be():
    lengths = [250, 30, 20, 220, 10, 200, 180, 100]
    made = plan(lengths, PassCost(limit=512, overhead=64), side_by_side=True)
    assert sorted(sum(lengths[index] for index in row) for (row,) in made) == [500, 510]


def test_a_limit_that_equal_passes_would_break_is_kept_by_unequal_ones():
    # Dealt to the shorter row each, the last 2 would make a row of 7.
    made = plan([3, 3, 2, 2, 2], PassCost(limit=6, overhead=0), side_by_side=True)
    assert [row for (row,) in made] == [[0, 1], [2, 3, 4]]


def test_half_of_what_did_not_fit_side_by_side_is_tried_until_an_example_is_alone():
    lengths, cost = [100, 90, 10], PassCost(limit=512, overhead=64)
    limits = []
    while (smaller := halved(cost, plan(lengths, cost, side_by_side=True), lengths)) is not None:
        cost = smaller
        limits.append(cost.limit)
    assert limits == [100]
    assert plan(lengths, cost, side_by_side=True) == [[[0]], [[1, 2]]]
