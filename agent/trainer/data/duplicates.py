"""Rows that say the same as one before them, in datasets of any number of rows.

Rows that say the same have the same fingerprint, so those whose fingerprints begin alike can be compared apart from all
others: as many parts as it takes for a part to be small, each found by going through the index once.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.trainer.corpus import Corpus

PART_ROWS = 1 << 19
"""Rows that are compared with each other at once, about; some 100 bytes each."""

TRAIN, EVAL = 0, 1

Place = tuple[int, int, int]
"""A row: its split, its dataset's number, its place in that."""


@dataclass(slots=True)
class Duplicates:
    """What is there twice."""

    rows: int = 0
    """Rows that another row of the same split stands before."""
    leaked: int = 0
    """Rows of split eval that are in split train, too."""
    first: list[tuple[Place, Place]] = field(default_factory=list)
    """The first of those rows, in order, each with the first row that says the same."""


def find_duplicates(corpus: Corpus, *, listed: int, part_rows: int = PART_ROWS) -> Duplicates:
    """Compare all rows of a corpus.

    Args:
        corpus: with its rows' split.
        listed: how many are to be named.
        part_rows: how many are compared at once, about.
    """
    rows = sum(len(dataset.rows) for dataset in corpus.datasets)
    parts = -(-rows // part_rows)
    found = Duplicates()
    for part in range(parts):
        _compare(*_part(corpus, part, parts), found, listed)
    return found


def _part(corpus: Corpus, part: int, parts: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The fingerprints of a part, as (high, low), and whose they are, as columns of `Place`; in the rows' order."""
    marks, places = [np.empty((0, 2), np.uint64)], [np.empty((0, 3), np.int64)]
    for number, dataset in enumerate(corpus.datasets):
        for start, block in dataset.rows.entries():
            PULSE.beat()
            chosen = np.flatnonzero(block["high"].astype(np.uint64) % np.uint64(parts) == np.uint64(part))
            entries = block[chosen]
            marks.append(np.column_stack([entries["high"], entries["low"]]).astype(np.uint64))
            splits = np.where(corpus.evaluated(number, entries["key"].astype(np.uint64)), EVAL, TRAIN)
            places.append(np.column_stack([splits, np.full(len(chosen), number), start + chosen]).astype(np.int64))
    return np.concatenate(marks), np.concatenate(places)


def _compare(marks: NDArray[np.uint64], places: NDArray[np.int64], found: Duplicates, listed: int) -> None:
    # Of rows that say the same those of split train come first, then by their order: sorting is stable.
    order = np.lexsort((places[:, 0], marks[:, 1], marks[:, 0]))
    marks, places = marks[order], places[order]
    news = np.ones(len(marks), dtype=np.bool_)
    news[1:] = (marks[1:] != marks[:-1]).any(axis=1)
    groups = np.cumsum(news) - 1
    in_train = places[np.flatnonzero(news), 0] == TRAIN
    found.leaked += int(((places[:, 0] == EVAL) & in_train[groups]).sum())
    opens = news.copy()
    opens[1:] |= places[1:, 0] != places[:-1, 0]
    firsts = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    twice = np.flatnonzero(~opens)
    found.rows += len(twice)
    earliest = twice[np.lexsort((places[twice, 2], places[twice, 1], places[twice, 0]))][:listed]
    named = [(_place(places[at]), _place(places[firsts[at]])) for at in earliest]
    found.first = heapq.nsmallest(listed, [*found.first, *named])


def _place(columns: NDArray[np.int64]) -> Place:
    split, dataset, row = columns.tolist()
    return split, dataset, row
