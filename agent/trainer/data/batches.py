"""Pads examples into the tensors of one pass."""

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
    """What one pass takes. `ids` and `targets` are (examples, positions); a target is the *next* token or IGNORED."""

    ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    """The columns in which some example has a target: nothing else needs logits."""


def collate(examples: Sequence[Example], *, pad_id: int, device: torch.device) -> MicroBatch:
    """Pad on the right. No attention mask is needed: in a causal model no real token sees what stands to its right."""
    width = max(len(example) for example in examples)
    ids = np.full((len(examples), width), pad_id, dtype=np.int64)
    targets = np.full((len(examples), width), IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = example.ids
        targets[row, : len(example) - 1] = np.where(example.trained[1:], example.ids[1:], IGNORED)
    positions = np.flatnonzero((targets != IGNORED).any(axis=0))
    return MicroBatch(
        ids=torch.from_numpy(ids).to(device),
        targets=torch.from_numpy(targets[:, positions]).to(device),
        positions=torch.from_numpy(positions).to(device),
    )
