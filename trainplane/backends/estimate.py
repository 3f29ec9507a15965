"""What a training takes, as far as it is known: figures, and for each that is missing the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

#: What an estimate is of.
FIGURES = ("parameters", "trainable_parameters", "gpu_memory_bytes", "steps", "tokens", "seconds", "disk_bytes")


@dataclass(frozen=True, slots=True)
class Memory:
    """What one device holds, in bytes, by what holds it. The parts are not at their fullest together."""

    weights: float = 0.0
    """The base model, as it lies in memory."""
    adapter: float = 0.0
    """What is trained beside it."""
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    """What a pass keeps for its way back."""
    logits: float = 0.0
    """With their loss."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """See `trainplane.v1.Estimate`. None: unknown, and `unknown` says why."""

    parameters: float | None = None
    trainable_parameters: float | None = None
    gpu_memory_bytes: float | None = None
    memory: Memory | None = None
    sharded: bool = False
    """Whether that is of a part of the model."""
    steps: int | None = None
    tokens: float | None = None
    seconds: float | None = None
    disk_bytes: float | None = None
    unknown: dict[str, str] = field(default_factory=dict)

    @classmethod
    def nothing(cls, why: str) -> Self:
        """Nothing is known, for one reason."""
        return cls(unknown=dict.fromkeys(FIGURES, why))
