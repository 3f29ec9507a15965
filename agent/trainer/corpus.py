"""All datasets of a job, read and tokenized: what is trained on, and what is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.trainer.data.rows import read_dataset
from agent.trainer.data.splitting import hold_out
from agent.trainer.data.template import Renderer
from agent.trainer.data.tokens import TokenCounts, tokenize
from agent.trainer.failures import DatasetEmpty

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.trainer.assignment import DatasetSource, Tuning
    from agent.trainer.data.rows import Dataset, Row
    from agent.trainer.data.tokens import Example
    from agent.trainer.reports import Reports

SPLITS = ("train", "eval")


@dataclass(slots=True)
class Corpus:
    """The examples of both splits, and how they came about."""

    datasets: list[Dataset]
    held_out: list[set[int]] = field(default_factory=list)
    """For each dataset, the places of rows of split train that are evaluated on."""
    train: list[Example] = field(default_factory=list)
    eval: list[Example] = field(default_factory=list)
    counts: dict[str, TokenCounts] = field(default_factory=dict)
    train_counts: list[int] = field(default_factory=list)
    """Training examples of each dataset of split train, in their order."""

    def rows(self, split: str) -> Iterator[Row]:
        """The rows of a split, in order."""
        for number in range(len(self.datasets)):
            yield from self.rows_of(number, split)

    def rows_of(self, number: int, split: str) -> Iterator[Row]:
        """Those of one dataset."""
        dataset = self.datasets[number]
        if dataset.source.split == split and not self.held_out[number]:
            yield from dataset.rows
        elif dataset.source.split == "train":
            held_out = self.held_out[number]
            yield from (row for place, row in enumerate(dataset.rows) if (place in held_out) == (split == "eval"))

    def facts(self) -> dict[str, Any]:
        """For the provenance: each source with its digest, each split with its counts."""
        return {
            "sources": [
                {
                    "source": dataset.source.source,
                    "commit": dataset.source.commit,
                    "split": dataset.source.split,
                    "rows": len(dataset.rows),
                    "held_out_rows": len(held_out),
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
                    "untrainable": counts.untrainable,
                }
                for split, counts in self.counts.items()
            },
        }


def read_corpus(sources: Sequence[DatasetSource]) -> Corpus:
    """Read every dataset; nothing heavy is imported for it.

    Raises:
        TrainingFailure: as `read_dataset` does.
    """
    datasets = [read_dataset(source) for source in sources]
    return Corpus(datasets, [set() for _ in datasets])


def tokenize_corpus(corpus: Corpus, tokenizer: Any, tuning: Tuning, *, max_length: int, reports: Reports) -> None:
    """Fill in the examples of both splits, and warn of what was cut off or left out.

    Raises:
        ChatTemplateMissing: there are conversations and no template.
        DatasetInvalid: the template refuses a row.
        DatasetEmpty: a split has no trainable token, or a dataset with a weight has none.
    """
    renderer = Renderer(tokenizer, tuning.chat_template)
    if tuning.eval_fraction:
        corpus.held_out = _held_out(corpus.datasets, tuning)
    for split, examples in zip(SPLITS, (corpus.train, corpus.eval), strict=True):
        if next(corpus.rows(split), None) is None:
            continue
        counts = corpus.counts[split] = TokenCounts()
        made = []
        for number in range(len(corpus.datasets)):
            texts = (text for row in corpus.rows_of(number, split) for text in renderer.render(row))
            before = len(examples)
            examples.extend(tokenize(texts, tokenizer, max_length=max_length, counts=counts))
            made.append(len(examples) - before)
        _tell(split, counts, max_length, reports)
        if not examples:
            raise DatasetEmpty(
                f"datasets: no row of split {split} has a token to train on within {max_length} tokens; "
                f"the first such is {counts.first_untrainable}"
            )
        if split == "train":
            corpus.train_counts = _counted(corpus.datasets, made, max_length)


def _held_out(datasets: Sequence[Dataset], tuning: Tuning) -> list[set[int]]:
    trained = [dataset for dataset in datasets if dataset.source.split == "train"]
    chosen = iter(hold_out(trained, fraction=tuning.eval_fraction, seed=tuning.seed))
    return [next(chosen) if dataset.source.split == "train" else set() for dataset in datasets]


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


def _tell(split: str, counts: TokenCounts, max_length: int, reports: Reports) -> None:
    if counts.truncated:
        reports.warning(
            "ROWS_TRUNCATED",
            f"tuning_parameters.max_sequence_length: {counts.truncated} of {counts.texts} texts of split {split} are "
            f"longer than {max_length} tokens (its value, or the model's own limit) and lost their end "
            f"({counts.truncated_tokens} tokens); the first is {counts.first_truncated}",
        )
    if counts.untrainable and counts.examples:
        reports.warning(
            "ROWS_WITHOUT_TARGET",
            f"datasets: {counts.untrainable} of {counts.texts} texts of split {split} have no token to train on within "
            f"{max_length} tokens and are left out; the first is {counts.first_untrainable}",
        )
