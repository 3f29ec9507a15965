"""Packs and pads examples into the tensors of one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.data.tokens import Example

IGNORED = -100
"""PyTorch's label of a position without a target."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one pass takes. `ids` and `targets` are (rows, positions); a target is the *next* token or IGNORED."""

    ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    """The columns in which some example has a target: nothing else needs logits."""
    position_ids: torch.Tensor | None
    """Each token's place in its own example, where a row holds several; None: its place in the row."""
    lengths: torch.Tensor
    """Of the example that each token belongs to, as (rows, positions); 1 for padding."""


def collate(examples: Sequence[Example], *, pad_id: int, device: torch.device) -> MicroBatch:
    """A row for each example."""
    return collate_rows([[example] for example in examples], pad_id=pad_id, device=device)


def collate_rows(rows: Sequence[Sequence[Example]], *, pad_id: int, device: torch.device) -> MicroBatch:
    """Examples of a row one after the other, then padding, which is an example of its own that nobody looks at.

    No attention mask is needed against padding: in a causal model no real token sees what stands to its right.
    """
    shape = len(rows), max(sum(len(example) for example in row) for row in rows)
    ids = np.full(shape, pad_id, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    lengths = np.ones(shape, dtype=np.int64)
    for place, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example)
            ids[place, start:end] = example.ids
            # The last token's target would be the next example's first, which it knows nothing of.
            targets[place, start : end - 1] = np.where(example.trained[1:], example.ids[1:], IGNORED)
            position_ids[place, start:end] = np.arange(len(example))
            lengths[place, start:end] = len(example)
            start = end
        position_ids[place, start:] = np.arange(shape[1] - start)
    positions = np.flatnonzero((targets != IGNORED).any(axis=0))
    packed = any(len(row) > 1 for row in rows)
    return MicroBatch(
        ids=torch.from_numpy(ids).to(device),
        targets=torch.from_numpy(targets[:, positions]).to(device),
        positions=torch.from_numpy(positions).to(device),
        position_ids=torch.from_numpy(position_ids).to(device) if packed else None,
        lengths=torch.from_numpy(lengths).to(device),
    )
