"""The order of the examples, their share for each rank, and how that is cut into micro-batches. Pure.

An effective batch is what the user asked for; its micro-batches are ours: examples of like length together, padded to
the longest of each, as few tokens computed as the device's own cost of a pass makes worthwhile.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class PassCost:
    """What one forward and backward pass costs on a device, in tokens."""

    limit: int
    """Tokens, padding included, that a micro-batch may have (a single longer example still gets its pass)."""
    overhead: int
    """Tokens whose computation takes as long as starting one more pass."""


def effective_batches(count: int, *, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Indices of the examples of one optimizer step after another, without end.

    Every epoch is a new permutation, the same for the same seed on every machine. No batch crosses an epoch's
    end; the last one of an epoch may be smaller.
    """
    epoch = 0
    while True:
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - a sampling order, no secret
        for start in range(0, count, batch_size):
            yield order[start : start + batch_size]
        epoch += 1


def share(batch: Sequence[int], lengths: Sequence[int], *, rank: int, size: int) -> list[int]:
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
