"""Effective batches and their micro-batches."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from agent.trainer.data.order import PassCost, effective_batches, micro_batches, share


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
    batches = list(islice(effective_batches(count, batch_size=batch_size, seed=seed), 2 * steps))
    for epoch in (batches[:steps], batches[steps:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(count))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


def test_the_order_is_the_seed_s_and_changes_with_the_epoch():
    first, second = islice(effective_batches(20, batch_size=20, seed=1), 2)
    assert first != second
    assert [first, second] == list(islice(effective_batches(20, batch_size=20, seed=1), 2))
    assert first != next(effective_batches(20, batch_size=20, seed=2))


@given(lengths=st.lists(st.integers(1, 300), max_size=70), size=st.integers(1, 8), seed=st.integers(0, 9))
def test_the_ranks_shares_are_a_partition_of_the_batch(lengths: list[int], size: int, seed: int):
    batch = next(effective_batches(len(lengths), batch_size=len(lengths), seed=seed)) if lengths else []
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
