"""The loss of a micro-batch as a *sum* over its trained tokens, in fp32.

A sum, so that the caller divides by the trained tokens of the whole effective batch: the gradient is then the same
however the batch is cut into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from agent.trainer.data.batches import collate_rows
from agent.trainer.data.order import halved, plan
from agent.trainer.entropy import summed_cross_entropy
from agent.trainer.failures import OutOfGpuMemory
from agent.trainer.group import ALONE
from agent.trainer.passes import IDLE
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.data.batches import MicroBatch
    from agent.trainer.data.order import PassCost, Plan
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
    return summed_cross_entropy(logits.flatten(0, 1), batch.targets.flatten())


def mean_loss(adapted: AdaptedModel, examples: Sequence[Example], *, batch_size: int, group: Group = ALONE) -> float:
    """The mean loss per trained token over examples, without dropout and without gradients.

    Args:
        adapted: the model; it is left in training mode.
        examples: all evaluation rows.
        batch_size: how many examples are cut into micro-batches together.
        group: the ranks, each of which evaluates its share of the examples.

    Raises:
        OutOfGpuMemory: one example alone does not fit.
    """
    total, trained_tokens = (torch.zeros((), dtype=torch.float64) for _ in range(2))
    own = range(group.rank, len(examples), group.size)
    cost = adapted.device.cost
    adapted.model.eval()
    with adapted.evaluating():
        # As often as rank 0, who has the most: ranks of a sharded model make their passes together.
        for start in range(0, -(-len(examples) // group.size), batch_size):
            chosen = [examples[number] for number in own[start : start + batch_size]]
            loss, cost = _within_memory(adapted, chosen, cost)
            total += loss
            trained_tokens += sum(example.trained_tokens for example in chosen)
    adapted.model.train()
    group.add_up([total, trained_tokens])
    return total.item() / trained_tokens.item()


def _within_memory(adapted: AdaptedModel, chosen: Sequence[Example], cost: PassCost) -> tuple[float, PassCost]:
    """The summed loss of examples, and the cost with as small a limit as it took."""
    lengths = [len(example) for example in chosen]
    while True:
        made = plan(lengths, cost, side_by_side=adapted.attends_by_document)
        losses = [0.0] * len(made)

        def one(number: int, made: Plan = made, losses: list[float] = losses) -> None:
            losses[number] = _pass(adapted, [[chosen[index] for index in row] for row in made[number]])

        fit = adapted.passes.run("evaluate", len(made), one, lambda: _pass(adapted, [[IDLE]]))
        if fit.all:
            return sum(losses), cost
        if fit.own:
            continue
        smaller = halved(cost, made, lengths)
        if smaller is None:
            raise OutOfGpuMemory(
                f"one example of {max(lengths)} tokens of the eval split does not fit the device's memory; lower "
                "tuning_parameters.max_sequence_length"
            )
        torch.cuda.empty_cache()
        cost = smaller


def _pass(adapted: AdaptedModel, rows: Sequence[Sequence[Example]]) -> float:
    batch = collate_rows(rows, pad_id=adapted.pad_id, device=adapted.device.torch_device)
    PULSE.beat()
    return summed_loss(adapted, batch).item()
