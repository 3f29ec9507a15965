"""What a training is about to learn from: `audit.json`, and a line of it before training begins.

It answers what people find out too late: what was cut off or left out and where it stands, whether the model learns to
stop, what is there twice, and, by one rendered example, which tokens are trained on at all. It is written as soon as it
is known, into the attempt's directory, from where it is shipped with the logs: whoever needs it most has a job that
failed. Of data that is refused there is one, too, with the rows that are broken; among the artifacts it is in the end.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.trainer.data.broken import RowsBroken
from agent.trainer.data.duplicates import find_duplicates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.trainer.corpus import Corpus
    from agent.trainer.data.tokens import TokenCounts
    from agent.trainer.failures import TrainingFailure

NAME = "audit.json"
FORMAT_VERSION = 1
LISTED = 100
"""Rows that are named for each finding; all are counted."""
RENDERED_TOKENS = 2048
"""Of the rendered example; the rest is left out."""


def store(found: Mapping[str, Any], directory: Path) -> None:
    """Write an audit, whole or not at all.

    Raises:
        OSError: the disk is full or broken.
    """
    aside = directory / f".{NAME}.tmp"
    aside.write_text(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(directory / NAME)


def refusal(failure: TrainingFailure) -> dict[str, Any]:
    """The audit of data of which nothing is known but why it is refused."""
    rows = failure.rows if isinstance(failure, RowsBroken) else None
    return {
        "format_version": FORMAT_VERSION,
        "failure": {"reason": failure.reason, "message": str(failure)},
        "broken": {
            "count": rows.count if rows else 0,
            "rows": [{"row": where, "wrong": words.lstrip(": ")} for where, words in rows.listed] if rows else [],
        },
    }


def audit(corpus: Corpus, tokenizer: Any, *, max_length: int) -> dict[str, Any]:
    """The audit of a tokenized corpus, as JSON; also of one that was refused when it was tokenized.

    Args:
        corpus: with the examples of its splits.
        tokenizer: that made them.
        max_length: tokens of an example at most.
    """
    return {
        "format_version": FORMAT_VERSION,
        "max_length": max_length,
        "truncation": corpus.truncation,
        "sources": [
            {
                "source": dataset.source.source,
                "split": dataset.source.split,
                "format": dataset.format,
                "kind": dataset.kind,
                "sha256": dataset.sha256,
                "rows_read": len(dataset.rows),
                "rows_held_out": held_out,
            }
            for dataset, held_out in zip(corpus.datasets, corpus.held_out, strict=True)
        ],
        "splits": {split: _split(counts) for split, counts in corpus.counts.items()},
        "duplicates": _duplicates(corpus),
        "rendered": _rendered(corpus.counts.get("train"), tokenizer),
    }


def summary(found: dict[str, Any]) -> str:
    """The audit in a line, for an event."""
    train = found["splits"]["train"]
    lengths, twice = train["lengths"], found["duplicates"]
    said = (
        f"audit: {sum(source['rows_read'] for source in found['sources'])} rows read; {train['examples']} examples to "
        f"train on with {train['tokens']} tokens, {train['trained_tokens']} of them trained on; "
        f"{lengths['median']} tokens in the middle, {lengths['max']} at most; {train['refused']['texts']} left out "
        f"without a target, {train['truncated']['texts']} cut off, {train['without_eos']['texts']} that do not end, "
        f"{twice['rows']} duplicates"
    )
    if train["dropped"]["texts"]:
        said += f", {train['dropped']['texts']} too long and left out"
    if "eval" in found["splits"]:
        said += (
            f"; {found['splits']['eval']['examples']} examples to evaluate on, {twice['eval_rows_in_train']} of their "
            "rows in train too"
        )
    return f"{said}; audit.json tells which"


def _split(counts: TokenCounts) -> dict[str, Any]:
    return {
        "texts": counts.texts,
        "examples": counts.examples,
        "tokens": counts.tokens,
        "trained_tokens": counts.trained_tokens,
        "lengths": _lengths(counts) if counts.examples else None,
        "refused": _finding(counts.untrainable, counts, counts.untrainable_at),
        "truncated": {
            **_finding(counts.truncated, counts, counts.truncated_at),
            "tokens_cut_off": counts.truncated_tokens,
        },
        "dropped": _finding(counts.dropped, counts, counts.dropped_at),
        "without_eos": _finding(counts.endless, counts, counts.endless_at),
    }


def _lengths(counts: TokenCounts) -> dict[str, Any]:
    lengths, examples = np.array(sorted(counts.lengths.items()), dtype=np.int64).T
    return {
        "min": int(lengths[0]),
        "mean": round(counts.tokens / counts.examples, 1),
        "median": int(percentile(lengths, examples, 50)),
        "p90": int(percentile(lengths, examples, 90)),
        "p99": int(percentile(lengths, examples, 99)),
        "max": int(lengths[-1]),
        "histogram": _histogram(lengths, examples),
    }


def _finding(texts: int, counts: TokenCounts, rows: Sequence[str]) -> dict[str, Any]:
    return {"texts": texts, "share": round(texts / max(1, counts.texts), 6), "rows": list(rows)}


def percentile(lengths: NDArray[np.int64], counts: NDArray[np.int64], percent: int) -> float:
    """What `numpy.percentile` says of as many of each length, without a list of them all.

    Args:
        lengths: in order, each once.
        counts: how often each is there.
        percent: of all that are below.
    """
    upto = np.cumsum(counts)
    place = percent / 100 * (int(upto[-1]) - 1)
    below = int(place)
    low, high = (int(lengths[np.searchsorted(upto, at, side="right")]) for at in (below, min(below + 1, upto[-1] - 1)))
    part = place - below
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


def _histogram(lengths: NDArray[np.int64], counts: NDArray[np.int64]) -> list[dict[str, int]]:
    """Examples by length, in bins of doubling width from the shortest to the longest."""
    exponents = np.frexp(lengths - 0.5)[1]  # 1 -> 0, 2 -> 1, 3 and 4 -> 2, 5 to 8 -> 3
    return [
        {"at_most": 2**exponent, "examples": int(counts[exponents == exponent].sum())}
        for exponent in range(int(exponents.min()), int(exponents.max()) + 1)
    ]


def _duplicates(corpus: Corpus) -> dict[str, Any]:
    """Rows that another row of the same split has before them, and eval rows that are trained on, too."""
    found = find_duplicates(corpus, listed=LISTED)
    rows = sum(len(dataset.rows) for dataset in corpus.datasets)
    return {
        "rows": found.rows,
        "share": round(found.rows / rows, 6),
        "first": [
            {"row": corpus.datasets[dataset].rows.where(row), "same_as": corpus.datasets[other].rows.where(before)}
            for (_, dataset, row), (_, other, before) in found.first
        ],
        "eval_rows_in_train": found.leaked,
    }


def _rendered(counts: TokenCounts | None, tokenizer: Any) -> dict[str, Any] | None:
    """One example as the model sees it, cut where what is trained on begins and ends; None: there is none."""
    if counts is None or counts.shown is None:
        return None
    where, example = counts.shown
    ids, trained = example.ids[:RENDERED_TOKENS], example.trained[:RENDERED_TOKENS]
    cuts = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    return {
        "row": where,
        "tokens": len(example),
        "trained_tokens": example.trained_tokens,
        "segments": [
            {
                "trained": bool(trained[start]),
                "tokens": end - start,
                "text": tokenizer.decode(ids[start:end].tolist(), clean_up_tokenization_spaces=False),
            }
            for start, end in pairwise(cuts)
        ],
    }
