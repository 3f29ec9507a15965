"""What one rank has done in a training, step by step."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.trainer.train import Step


@dataclass(slots=True)
class History:
    """All steps of a training as one rank made them, for its provenance."""

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0
    padded_tokens: int = 0
    micro_batch_examples: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    """In fp16: those whose gradient was too large for the loss's scale, and changed nothing."""
    first_epoch: array[int] = field(default_factory=lambda: array("I"))
    """The examples that this rank trained on in the first epoch, by number, in order."""
    resumed_from: int = 0
    """The step of the checkpoint that the training went on from; 0: it was not resumed."""

    def add(self, step: Step) -> None:
        """Count a step in."""
        self.losses.append(step.loss)
        self.tokens += step.tokens
        self.trained_tokens += step.trained_tokens
        self.padded_tokens += step.padded_tokens
        self.micro_batch_examples = max(self.micro_batch_examples, step.micro_batch_examples)
        self.seconds += step.seconds
        self.skipped_steps += step.skipped
