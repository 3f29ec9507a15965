"""The loss of a micro-batch as a *sum* over its trained tokens, in fp32.

A sum, so that the caller divides by the trained tokens of the whole effective batch: the gradient is then the same
however the batch is cut into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from agent.trainer.data.batches import IGNORED, collate
from agent.trainer.data.order import micro_batches
from agent.trainer.group import ALONE
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.data.batches import MicroBatch
    from agent.trainer.data.tokens import Example
    from agent.trainer.group import Group
    from agent.trainer.model import AdaptedModel


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean losses per trained token on the eval split."""

    before: float
    after: float


def summed_loss(adapted: AdaptedModel, batch: MicroBatch) -> torch.Tensor:
    """The cross-entropies of all targets of the micro-batch, added up. Differentiable."""
    # Documents of a row are told apart by their positions, and only without a mask and without a cache.
    packed = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    positions = batch.positions + adapted.leading_logits
    with adapted.computing():
        if adapted.selects_logits:
            logits = adapted.model(input_ids=batch.ids, use_cache=False, logits_to_keep=positions, **packed).logits
        else:
            logits = adapted.model(input_ids=batch.ids, use_cache=False, **packed).logits[:, positions]
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def mean_loss(adapted: AdaptedModel, examples: Sequence[Example], *, batch_size: int, group: Group = ALONE) -> float:
    """The mean loss per trained token over examples, without dropout and without gradients.

    Args:
        adapted: the model; it is left in training mode.
        examples: all evaluation rows.
        batch_size: how many examples are cut into micro-batches together.
        group: the ranks, each of which evaluates its share of the examples.
    """
    total = torch.zeros((), dtype=torch.float64)
    own = examples[group.rank :: group.size]
    adapted.model.eval()
    with torch.inference_mode():
        for start in range(0, len(own), batch_size):
            chosen = own[start : start + batch_size]
            for indices in micro_batches([len(example) for example in chosen], adapted.device.cost):
                batch = collate(
                    [chosen[index] for index in indices], pad_id=adapted.pad_id, device=adapted.device.torch_device
                )
                total += summed_loss(adapted, batch).item()
                PULSE.beat()
    adapted.model.train()
    group.add_up([total])
    return total.item() / sum(example.trained_tokens for example in examples)
