"""Which training rows are held out for evaluation (`tuning_parameters.eval_fraction`).

By content, not by place: a row and its duplicates go to one side, so that nothing evaluated was trained on, and a row
that is added or removed moves hardly any other. A row's content and the seed give it a place in an order; those that
come first are held out, so the choice is one number, and how it is found takes the same memory for any number of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.trainer.failures import DatasetEmpty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from agent.trainer.data.dataset import Dataset

_KEY_BITS = 64
_BITS = 16
"""Of a key that are settled each time that all of them are gone through."""


def hold_out(datasets: Sequence[Dataset], *, fraction: float) -> int:
    """The last key that is held out: rows with it or one before it are not trained on.

    Args:
        datasets: those of split train, read with the seed of the choice.
        fraction: of all their rows together; at least one row is held out, and with it all that say the same.

    Raises:
        DatasetEmpty: nothing would be left to train on.
    """
    rows = sum(len(dataset.rows) for dataset in datasets)
    wanted = max(1, round(fraction * rows))

    def keys() -> Iterator[NDArray[np.uint64]]:
        for dataset in datasets:
            for _, block in dataset.rows.entries():
                yield block["key"].astype(np.uint64)

    last = _smallest(keys, wanted)
    if sum(map(len, keys())) == count_held_out(keys(), last):
        raise DatasetEmpty(
            f"tuning_parameters.eval_fraction: holding out {wanted} of {rows} rows and their duplicates leaves none to "
            "train on; lower it, or give an eval dataset"
        )
    return last


def count_held_out(keys: Iterable[NDArray[np.uint64]], last: int) -> int:
    """How many of the keys are held out."""
    return sum(int((block <= last).sum()) for block in keys)


def _smallest(keys: Callable[[], Iterable[NDArray[np.uint64]]], wanted: int) -> int:
    """The key that comes in that place, from 1, when all are sorted: its highest bits first, by counting."""
    known, remaining = 0, wanted
    for shift in range(_KEY_BITS - _BITS, -1, -_BITS):
        counts = np.zeros(1 << _BITS, dtype=np.int64)
        for block in keys():
            alike = (
                block if shift + _BITS == _KEY_BITS else block[block >> np.uint64(shift + _BITS) == np.uint64(known)]
            )
            digits = (alike >> np.uint64(shift)) & np.uint64((1 << _BITS) - 1)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << _BITS)
        before = np.cumsum(counts)
        digit = int(np.searchsorted(before, remaining))
        remaining -= int(before[digit - 1]) if digit else 0
        known = (known << _BITS) | digit
    return known
