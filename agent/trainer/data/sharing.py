"""Gives every rank the examples that rank 0 has tokenized, and says which dataset they are of.

One rank reads and tokenizes: the others would only do the same again, and warn of the same rows again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.trainer.data.order import Portion
from agent.trainer.data.tokens import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.assignment import DatasetSource
    from agent.trainer.group import Group


def share_examples(group: Group, examples: Sequence[Example]) -> list[Example]:
    """Rank 0's examples, on every rank; what the others give is not looked at."""
    if group.size == 1:
        return list(examples)
    if group.first:
        lengths = group.share(np.array([len(example) for example in examples], dtype=np.int64))
        ids = group.share(np.concatenate([example.ids for example in examples] or [np.empty(0, np.int32)]))
        trained = group.share(np.concatenate([example.trained for example in examples] or [np.empty(0, np.bool_)]))
    else:
        lengths, ids, trained = group.share(None), group.share(None), group.share(None)
    ends = np.cumsum(lengths)
    # Views of the shared arrays: nothing is copied.
    return [
        Example(ids[end - length : end], trained[end - length : end])
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]


def share_portions(group: Group, sources: Sequence[DatasetSource], counts: Sequence[int]) -> list[Portion]:
    """Which training examples are of which dataset, on every rank.

    Args:
        group: the ranks.
        sources: all datasets of the job.
        counts: rank 0's: how many training examples each dataset of split train has given, in their order.
    """
    shared = group.share(np.array(counts, dtype=np.int64) if group.first else None).tolist()
    trained = [source for source in sources if source.split == "train"]
    ends = np.cumsum(shared).tolist()
    return [
        Portion(first=end - count, count=count, weight=source.weight)
        for source, end, count in zip(trained, ends, shared, strict=True)
    ]
