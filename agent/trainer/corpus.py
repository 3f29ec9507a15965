"""All datasets of a job, read and tokenized: what is trained on, and what is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.trainer.data.rows import read_dataset
from agent.trainer.data.template import Renderer
from agent.trainer.data.tokens import TokenCounts, tokenize
from agent.trainer.failures import DatasetEmpty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.assignment import DatasetSource
    from agent.trainer.data.rows import Dataset
    from agent.trainer.data.tokens import Example
    from agent.trainer.reports import Reports

SPLITS = ("train", "eval")


@dataclass(slots=True)
class Corpus:
    """The examples of both splits, and how they came about."""

    datasets: list[Dataset]
    train: list[Example] = field(default_factory=list)
    eval: list[Example] = field(default_factory=list)
    counts: dict[str, TokenCounts] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For the provenance: each source with its digest, each split with its counts."""
        return {
            "sources": [
                {
                    "source": dataset.source.source,
                    "split": dataset.source.split,
                    "rows": len(dataset.rows),
                    "format": dataset.format,
                    "kind": dataset.kind,
                    "size_bytes": dataset.size_bytes,
                    "sha256": dataset.sha256,
                }
                for dataset in self.datasets
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
    return Corpus([read_dataset(source) for source in sources])


def tokenize_corpus(
    corpus: Corpus, tokenizer: Any, *, chat_template: str | None, max_length: int, reports: Reports
) -> None:
    """Fill in the examples of both splits, and warn of what was cut off or left out.

    Raises:
        ChatTemplateMissing: there are conversations and no template.
        DatasetInvalid: the template refuses a row.
        DatasetEmpty: a split has no trainable token.
    """
    renderer = Renderer(tokenizer, chat_template)
    for split, examples in zip(SPLITS, (corpus.train, corpus.eval), strict=True):
        datasets = [dataset for dataset in corpus.datasets if dataset.source.split == split]
        if not datasets:
            continue
        counts = corpus.counts[split] = TokenCounts()
        texts = (text for dataset in datasets for row in dataset.rows for text in renderer.render(row))
        examples.extend(tokenize(texts, tokenizer, max_length=max_length, counts=counts))
        _tell(split, counts, max_length, reports)
        if not examples:
            raise DatasetEmpty(
                f"datasets: no row of split {split} has a token to train on within {max_length} tokens; "
                f"the first such is {counts.first_untrainable}"
            )


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
