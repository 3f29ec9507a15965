"""Which training rows are held out for evaluation (`tuning_parameters.eval_fraction`). Pure.

By content, not by place: a row and its duplicates go to one side, so that nothing evaluated was trained on, and a row
that is added or removed moves hardly any other.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from agent.trainer.data.rows import fingerprint
from agent.trainer.failures import DatasetEmpty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.data.rows import Dataset


def hold_out(datasets: Sequence[Dataset], *, fraction: float, seed: int) -> list[set[int]]:
    """For each dataset the places of its rows that are not trained on.

    Args:
        datasets: those of split train.
        fraction: of all their rows together; at least one row is held out.
        seed: another one holds out others.

    Raises:
        DatasetEmpty: nothing would be left to train on.
    """
    alike: dict[bytes, list[tuple[int, int]]] = {}
    for number, dataset in enumerate(datasets):
        for place, row in enumerate(dataset.rows):
            alike.setdefault(fingerprint(row.content), []).append((number, place))
    rows = sum(len(dataset.rows) for dataset in datasets)
    wanted = max(1, round(fraction * rows))
    chosen: list[set[int]] = [set() for _ in datasets]
    held = 0
    for content in sorted(alike, key=lambda content: sha256(b"%d/%b" % (seed, content)).digest()):
        if held >= wanted:
            break
        held += len(alike[content])
        for number, place in alike[content]:
            chosen[number].add(place)
    if held == rows:
        raise DatasetEmpty(
            f"tuning_parameters.eval_fraction: holding out {wanted} of {rows} rows and their duplicates leaves none to "
            "train on; lower it, or give an eval dataset"
        )
    return chosen
