"""Packing: several examples in one row, so that little of it is padding. Pure.

They stay apart because each one's positions begin at 0 and there is **no attention mask**: that is how transformers
knows documents in a row (`masking_utils.find_packed_sequence_indices`). With a mask of ones, or with a cache in use,
they would see each other in silence; `agent/trainer/separation.py` makes sure that the model at hand keeps them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack(lengths: Sequence[int], *, row_tokens: int) -> list[list[int]]:
    """Rows of examples, first fit of the longest first: at most 11/9 of the rows that would be the fewest.

    Args:
        lengths: of the examples.
        row_tokens: what a row holds; a longer example has a row of its own.

    Returns:
        Indices into `lengths`, each once.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((place for place, room in enumerate(free) if room >= lengths[index]), len(rows))
        if place == len(rows):
            rows.append([])
            free.append(row_tokens)
        rows[place].append(index)
        free[place] -= lengths[index]
    return rows
