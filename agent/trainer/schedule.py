"""How many steps, and the learning rate of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.trainer.assignment import Tuning


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up to the peak, then `kind`. Pure: the rate of a step depends on nothing else."""

    kind: str
    peak: float
    warmup_steps: int
    total_steps: int
    steps_per_epoch: int

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0.

        The warm-up is linear and its first step already moves the weights (peak / warmup_steps, where
        transformers' first step has the rate 0); the decay would reach 0 one step after the last.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.kind == "cosine":
            return self.peak * 0.5 * (1.0 + math.cos(math.pi * done))
        return self.peak * (1.0 - done)

    def epoch(self, steps_done: int) -> float:
        """Passes over the data after that many steps."""
        return steps_done / self.steps_per_epoch


def schedule_for(tuning: Tuning, *, examples: int) -> Schedule:
    """The schedule of a training over that many examples (at least one)."""
    steps_per_epoch = math.ceil(examples / tuning.batch_size)
    # Rounded before ceil: 0.1 epochs of 30 steps are 3 steps, not the 4 that binary fractions would make of them.
    total = tuning.max_steps or max(1, math.ceil(round(steps_per_epoch * tuning.num_epochs, 6)))
    return Schedule(
        kind=tuning.lr_scheduler,
        peak=tuning.learning_rate,
        warmup_steps=math.ceil(round(total * tuning.warmup_ratio, 6)),
        total_steps=total,
        steps_per_epoch=steps_per_epoch,
    )
