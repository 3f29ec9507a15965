"""All datasets of a job, looked at and tokenized: what is trained on, and what is evaluated on.

Neither rows nor examples are held in memory: rows are read from their files each time that they are wanted, and
examples are on the disk from when they are made (ADR 0033). What grows with the data in memory is the order of an
epoch, four bytes an example, and what a message or the audit names, of which there is a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.trainer.data.broken import LISTED, BrokenRows, RowsBroken
from agent.trainer.data.dataset import read_dataset
from agent.trainer.data.examples import ExampleWriter
from agent.trainer.data.row_index import RowIndex
from agent.trainer.data.splitting import count_held_out, hold_out
from agent.trainer.data.template import Renderer
from agent.trainer.data.tokens import TokenCounts, tokenize
from agent.trainer.failures import DatasetEmpty, DatasetInvalid
from trainplane.backends import truncation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.trainer.assignment import DatasetSource, Tuning
    from agent.trainer.data.dataset import Dataset
    from agent.trainer.data.rows import Row
    from agent.trainer.data.template import Rendered
    from agent.trainer.data.tokens import Example
    from agent.trainer.reports import Reports

SPLITS = ("train", "eval")

DIRECTORY = "corpus"
"""In the attempt's, until every rank has opened what is in it."""


@dataclass(slots=True)
class Corpus:
    """The examples of both splits, and how they came about."""

    datasets: Sequence[Dataset]
    directory: Path
    """Where examples are written while they are made."""
    last_held_out: int | None = None
    """Rows of split train whose key is at most that are evaluated on (`splitting.py`); None: none of them."""
    held_out: Sequence[int] = ()
    """For each dataset, how many of its rows that are."""
    train: Sequence[Example] = ()
    eval: Sequence[Example] = ()
    counts: dict[str, TokenCounts] = field(default_factory=dict)
    truncation: str = truncation.RIGHT
    """What became of texts that are too long."""
    train_counts: list[int] = field(default_factory=list)
    """Training examples of each dataset of split train, in their order."""

    def evaluated(self, number: int, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which rows of a dataset are evaluated on, by their keys."""
        if self.datasets[number].source.split == "eval":
            return np.ones(len(keys), np.bool_)
        return np.zeros(len(keys), np.bool_) if self.last_held_out is None else keys <= np.uint64(self.last_held_out)

    def count(self, number: int, split: str) -> int:
        """How many rows of a dataset are of a split."""
        dataset = self.datasets[number]
        if dataset.source.split == "eval":
            return len(dataset.rows) if split == "eval" else 0
        return self.held_out[number] if split == "eval" else len(dataset.rows) - self.held_out[number]

    def rows_of(self, number: int, split: str) -> Iterator[Row]:
        """The rows of a dataset that are of a split, in order."""
        rows = self.datasets[number].rows
        keys = (block["key"].astype(np.uint64) for _, block in rows.entries())
        evaluated = (each for block in keys for each in self.evaluated(number, block).tolist())
        yield from (row for row, held in zip(rows, evaluated, strict=True) if held == (split == "eval"))

    def facts(self) -> dict[str, Any]:
        """For the provenance: each source with its digest, each split with its counts."""
        return {
            "sources": [
                {
                    "source": dataset.source.source,
                    "commit": dataset.source.commit,
                    "split": dataset.source.split,
                    "rows": len(dataset.rows),
                    "held_out_rows": held_out,
                    "format": dataset.format,
                    "kind": dataset.kind,
                    "size_bytes": dataset.size_bytes,
                    "sha256": dataset.sha256,
                }
                for dataset, held_out in zip(self.datasets, self.held_out, strict=True)
            ],
            "splits": {
                split: {
                    "texts": counts.texts,
                    "examples": counts.examples,
                    "tokens": counts.tokens,
                    "trained_tokens": counts.trained_tokens,
                    "truncated": counts.truncated,
                    "truncated_tokens": counts.truncated_tokens,
                    "dropped": counts.dropped,
                    "untrainable": counts.untrainable,
                }
                for split, counts in self.counts.items()
            },
        }


def read_corpus(sources: Sequence[DatasetSource], directory: Path, *, seed: int | None) -> Corpus:
    """Look at every dataset; nothing heavy is imported for it.

    Args:
        sources: the job's.
        directory: the attempt's; what is kept of rows and examples goes to its disk.
        seed: of the choice of rows that are held out; None: none is.

    Raises:
        TrainingFailure: as `read_dataset` does; RowsBroken has those of all datasets.
    """
    index = RowIndex(directory)
    datasets, broken = [], BrokenRows()
    for source in sources:
        try:
            datasets.append(read_dataset(source, index, seed=seed))
        except RowsBroken as failure:
            broken.add_all(failure.rows)
    if broken.count:
        raise broken.failure()
    return Corpus(datasets, directory / DIRECTORY, held_out=[0] * len(datasets))


def tokenize_corpus(corpus: Corpus, tokenizer: Any, tuning: Tuning, *, max_length: int, reports: Reports) -> None:
    """Write the examples of both splits, and warn of what was cut off or left out.

    Raises:
        ChatTemplateMissing: there are conversations and no template.
        RowsBroken: the template refuses rows; the others are tokenized and counted, unless it refuses LISTED of them.
        DatasetInvalid: a file is not what it was, or texts are too long and `truncation` is ERROR.
        DatasetEmpty: a split has no trainable token, or a dataset with a weight has none.
        DiskFull: the disk has no room for the tokens.
    """
    renderer = Renderer(tokenizer, tuning.chat_template)
    if tuning.eval_fraction:
        _hold_out(corpus, tuning.eval_fraction)
    corpus.directory.mkdir(exist_ok=True)
    corpus.truncation = tuning.truncation
    broken = BrokenRows()
    for split in SPLITS:
        if not any(corpus.count(number, split) for number in range(len(corpus.datasets))):
            continue
        counts = corpus.counts[split] = TokenCounts()
        writer = ExampleWriter(corpus.directory, split)
        made = []
        for number in range(len(corpus.datasets)):
            before = writer.count
            texts = _rendered(corpus, number, split, renderer, broken)
            for example in tokenize(
                texts, tokenizer, max_length=max_length, counts=counts, truncation=tuning.truncation
            ):
                writer.append(example)
            made.append(writer.count - before)
        examples = writer.finish()
        if broken.count or _refuses_long(corpus):
            continue
        _tell(split, counts, max_length, reports, cut=tuning.truncation)
        if not examples:
            raise DatasetEmpty(
                f"datasets: no row of split {split} has a token to train on within {max_length} tokens; "
                f"the first such is {counts.first_untrainable or counts.first_dropped}"
            )
        if split == "train":
            corpus.train = examples
            corpus.train_counts = _counted(corpus.datasets, made, max_length)
        else:
            corpus.eval = examples
    if broken.count:
        raise broken.failure()
    _require_short(corpus, max_length)


def _refuses_long(corpus: Corpus) -> bool:
    return corpus.truncation == truncation.ERROR and any(counts.dropped for counts in corpus.counts.values())


def _require_short(corpus: Corpus, max_length: int) -> None:
    if not _refuses_long(corpus):
        return
    long = {split: counts for split, counts in corpus.counts.items() if counts.dropped}
    said = " and ".join(f"{counts.dropped} of {counts.texts} texts of split {split}" for split, counts in long.items())
    first = next(iter(long.values())).first_dropped
    raise DatasetInvalid(
        f"tuning_parameters.truncation: error, and {said} are longer than {max_length} tokens "
        f"(tuning_parameters.max_sequence_length, or the model's own limit); the first is {first}: shorten them, raise "
        "max_sequence_length, or say right, left or drop"
    )


def _rendered(corpus: Corpus, number: int, split: str, renderer: Renderer, broken: BrokenRows) -> Iterator[Rendered]:
    """The texts of those rows of a dataset that can be rendered; the others are noted."""
    for row in corpus.rows_of(number, split) if corpus.count(number, split) else ():
        try:
            texts = renderer.render(row)
        except DatasetInvalid as error:
            broken.add(row.where, error)
            if broken.count == LISTED:
                raise broken.failure() from error
        else:
            yield from texts


def _hold_out(corpus: Corpus, fraction: float) -> None:
    trained = [dataset for dataset in corpus.datasets if dataset.source.split == "train"]
    corpus.last_held_out = last = hold_out(trained, fraction=fraction)
    corpus.held_out = [
        count_held_out((block["key"].astype(np.uint64) for _, block in dataset.rows.entries()), last)
        if dataset.source.split == "train"
        else 0
        for dataset in corpus.datasets
    ]


def _counted(datasets: Sequence[Dataset], made: Sequence[int], max_length: int) -> list[int]:
    """The counts of the datasets of split train, each of which can have its share."""
    trained = [(dataset.source, count) for dataset, count in zip(datasets, made, strict=True)]
    trained = [(source, count) for source, count in trained if source.split == "train"]
    weighted = any(source.weight is not None for source, _ in trained)
    for source, count in trained:
        if weighted and not count:
            raise DatasetEmpty(
                f"{source.path}.source: no row of it has a token to train on within {max_length} tokens, so it cannot "
                "have its share of the training; leave the dataset out"
            )
    return [count for _, count in trained]


def _tell(split: str, counts: TokenCounts, max_length: int, reports: Reports, *, cut: str) -> None:
    if counts.truncated:
        reports.warning(
            "ROWS_TRUNCATED",
            f"tuning_parameters.max_sequence_length: {counts.truncated} of {counts.texts} texts of split {split} are "
            f"longer than {max_length} tokens (its value, or the model's own limit) and lost their "
            f"{'beginning' if cut == truncation.LEFT else 'end'} ({counts.truncated_tokens} tokens); the first is "
            f"{counts.first_truncated}",
        )
    if counts.dropped and counts.examples:
        reports.warning(
            "ROWS_TOO_LONG",
            f"tuning_parameters.truncation: drop, and {counts.dropped} of {counts.texts} texts of split {split} are "
            f"longer than {max_length} tokens (tuning_parameters.max_sequence_length, or the model's own limit) and "
            f"left out; the first is {counts.first_dropped}",
        )
    if counts.untrainable and counts.examples:
        reports.warning(
            "ROWS_WITHOUT_TARGET",
            f"datasets: {counts.untrainable} of {counts.texts} texts of split {split} have no token to train on within "
            f"{max_length} tokens and are left out; the first is {counts.first_untrainable}",
        )
