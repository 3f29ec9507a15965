"""The order of the examples, their share for each rank, and how that is cut into micro-batches. Pure.

An effective batch is what the user asked for; its micro-batches are ours: examples of like length together, padded to
the longest of each, as few tokens computed as the device's own cost of a pass makes worthwhile.

    epoch_order -> effective batch -> share (this rank's) -> plan: micro-batches of rows of examples
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent.trainer.data.packing import pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NEAR_ENOUGH = 1.03
"""Shorter rows are worth that much more padding: what a token costs grows with the row that it attends to."""

Plan = list[list[list[int]]]
"""Micro-batches of rows of examples. A row without packing is one example; one of examples side by side is all that
its micro-batch has."""


class Lengths(Protocol):
    """Knows the length of every example, by its number."""

    def __getitem__(self, number: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class PassCost:
    """What one forward and backward pass costs on a device, in tokens."""

    limit: int
    """Tokens, padding included, that a micro-batch may have (a single longer example still gets its pass)."""
    overhead: int
    """Tokens whose computation takes as long as starting one more pass."""


@dataclass(frozen=True, slots=True)
class Portion:
    """The training examples of one dataset, which have successive numbers, and its share in sampling."""

    first: int
    count: int
    weight: float | None = None
    """Relative to the other portions'; None in all of them: each example once an epoch."""


def epoch_order(portions: Sequence[Portion], *, seed: int, epoch: int) -> array[int]:
    """The numbers of the examples of one epoch; a function of its arguments alone, on every machine.

    Four bytes each: of all that a training knows of its examples only this is held in memory.

    An epoch has as many examples as there are. Without weights it is a permutation of them. With weights each portion
    has its share of the epoch (rounded, at least one), and goes round and round through permutations of its own: a
    small one repeats itself within the epoch, each example as often as any other but for one; a large one goes on in
    the next epoch where it stopped.
    """
    if all(portion.weight is None for portion in portions):
        order = array("I", (portion.first + number for portion in portions for number in range(portion.count)))
    else:
        quotas = _quotas(portions)
        order = array("I")
        for place, (portion, quota) in enumerate(zip(portions, quotas, strict=True)):
            order.extend(_drawn(portion, f"{seed}/{place}", range(epoch * quota, (epoch + 1) * quota)))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - a sampling order, no secret
    return order


def _quotas(portions: Sequence[Portion]) -> list[int]:
    """How many examples of an epoch each portion gives: largest remainders, so that they add up; none gives nothing."""
    total = sum(portion.count for portion in portions)
    weights = [1.0 if portion.weight is None else portion.weight for portion in portions]
    exact = [total * weight / sum(weights) for weight in weights]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(quotas)), key=lambda place: quotas[place] - exact[place])
    for place in by_remainder[: total - sum(quotas)]:
        quotas[place] += 1
    for place, quota in enumerate(quotas):
        if quota == 0:
            quotas[quotas.index(max(quotas))] -= 1
            quotas[place] = 1
    return quotas


def _drawn(portion: Portion, seed: str, places: range) -> Iterator[int]:
    """What stands at these places of a portion's endless sequence of permutations."""
    order = array("I")
    drawn_turn = -1
    for place in places:
        turn, within = divmod(place, portion.count)
        if turn != drawn_turn:
            order = array("I", range(portion.count))
            random.Random(f"{seed}/{turn}").shuffle(order)  # noqa: S311 - a sampling order, no secret
            drawn_turn = turn
        yield portion.first + order[within]


def effective_batches(portions: Sequence[Portion], *, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Numbers of the examples of one optimizer step after another, without end.

    No batch crosses an epoch's end; the last one of an epoch may be smaller.
    """
    epoch = 0
    while True:
        order = epoch_order(portions, seed=seed, epoch=epoch)
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size].tolist()
        epoch += 1


def share(batch: Sequence[int], lengths: Lengths, *, rank: int, size: int) -> list[int]:
    """What of an effective batch one rank trains on: disjoint, together the whole, as equal in number as can be.

    Ranks wait for each other at every step, so their shares should take alike: the longest examples are dealt first, in
    turns that go back and forth.

    Args:
        batch: indices of examples.
        lengths: of all examples, by index.
        rank: whose share.
        size: how many ranks there are.
    """
    if size == 1:
        return list(batch)
    order = sorted(batch, key=lambda index: -lengths[index])
    there_and_back = (*range(size), *reversed(range(size)))
    return [index for place, index in enumerate(order) if there_and_back[place % len(there_and_back)] == rank]


def micro_batches(lengths: Sequence[int], cost: PassCost) -> list[list[int]]:
    """Partition examples so that padded tokens plus the passes' overhead are the fewest.

    Exact: among partitions of the examples in order of length, found by dynamic programming over the cuts.

    Args:
        lengths: of the examples of one effective batch.
        cost: the device's.

    Returns:
        Groups of indices into `lengths`, longest examples first; each index once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    best = [0.0] + [float("inf")] * len(order)
    cut = [0] * (len(order) + 1)
    for start in range(len(order)):
        longest = lengths[order[start]]
        for end in range(start + 1, len(order) + 1):
            padded = (end - start) * longest
            if padded > cost.limit and end > start + 1:
                break
            if best[start] + padded + cost.overhead < best[end]:
                best[end] = best[start] + padded + cost.overhead
                cut[end] = start
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[cut[end] : end])
        end = cut[end]
    return groups[::-1]


def plan(lengths: Sequence[int], cost: PassCost, *, longest_row: int = 0, side_by_side: bool = False) -> Plan:
    """The micro-batches of one rank's share.

    Args:
        lengths: of its examples.
        cost: the device's.
        longest_row: tokens that a row of several packed examples may have; 0: rows are single examples.
        side_by_side: a micro-batch is one row of whatever examples, as long as they are together.

    Returns:
        Side by side nothing is padding, and the passes are as few and as equal as can be found.
        With packing, the cheapest of the plans whose rows have the longest example's length, twice that, and so on:
        the one with the shortest rows among those that are as good as the best.
    """
    if side_by_side:
        return [[row] for row in _equal_rows(lengths, cost.limit)]
    single = [[index] for index in range(len(lengths))]
    plans = [_planned(single, lengths, cost)]
    if longest_row and lengths:
        bound = max(*lengths, min(longest_row, cost.limit))
        row = max(lengths)
        while row <= bound:
            plans.append(_planned(pack(lengths, row_tokens=row), lengths, cost))
            row = 2 * row if row == bound else min(2 * row, bound)
    costs = [padded_tokens(made, lengths) + cost.overhead * len(made) for made in plans]
    return next(made for made, price in zip(plans, costs, strict=True) if price <= NEAR_ENOUGH * min(costs))


def _equal_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """As many rows as first fit takes, each example dealt to the shortest of them, the longest example first."""
    packed = pack(lengths, row_tokens=limit)
    rows: list[list[int]] = [[] for _ in packed]
    tokens = [0] * len(rows)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = tokens.index(min(tokens))
        rows[place].append(index)
        tokens[place] += lengths[index]
    fits = all(count <= limit or len(row) == 1 for row, count in zip(rows, tokens, strict=True))
    return rows if fits else packed


def _planned(rows: list[list[int]], lengths: Sequence[int], cost: PassCost) -> Plan:
    groups = micro_batches([sum(lengths[index] for index in row) for row in rows], cost)
    return [[rows[place] for place in group] for group in groups]


def halved(cost: PassCost, made: Plan, lengths: Sequence[int]) -> PassCost | None:
    """The cost with half the limit of the largest pass of a plan that did not fit; None: one example alone did not."""
    largest = max(padded_tokens([rows], lengths) for rows in made)
    if all(len(rows) == 1 for rows in made) and largest <= max(lengths):
        return None
    return PassCost(limit=min(cost.limit, largest) // 2, overhead=cost.overhead)


def padded_tokens(made: Plan, lengths: Sequence[int]) -> int:
    """Tokens that a plan computes, padding included."""
    return sum(len(rows) * max(sum(lengths[index] for index in row) for row in rows) for rows in made)
