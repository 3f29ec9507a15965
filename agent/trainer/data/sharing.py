"""Gives every rank the examples that rank 0 has tokenized.

One rank reads and tokenizes: the others would only do the same again, and warn of the same rows again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.trainer.data.tokens import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

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
