"""What a training writes to its node's disk, from the effective spec and the model's shape.

Files of the trainer's own alone: what it reads (model, datasets, their tokens) is counted by who knows where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainplane.backends.memory import WIDTHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainplane.backends.model_shape import ModelShape
    from trainplane.backends.trained import Trained

_FP32 = 4
#: What is trained, and the optimizer's two averages of it.
_CHECKPOINT_NUMBERS = 3
#: Where the job does not say; more than these only where it is known that so many are written.
_CHECKPOINTS = 2
_GGUF_WIDTHS = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes, by what they are."""

    checkpoints: float
    """Of all that are kept at a time."""
    output: float
    """The adapter, or the whole model."""
    merged: float
    """The merged model, where it is published."""
    gguf: float
    scratch: float
    """What is there only while it is merged."""

    @property
    def published(self) -> float:
        """What goes to the output's place."""
        return self.output + self.merged + self.gguf

    @property
    def total(self) -> float:
        """All of it, at its most."""
        return self.checkpoints + self.published + self.scratch


def written(spec: Mapping[str, Any], shape: ModelShape, moved: Trained) -> Written:
    """What the trainer of `peft` writes."""
    export, custom = spec.get("export", {}), spec["customization"]
    whole, model = custom["method"] == "full", shape.parameters * WIDTHS[custom["precision"]]
    merges = not whole and bool(export.get("merged") or export.get("gguf"))
    published = merges and bool(export.get("merged"))
    gguf = shape.parameters * _GGUF_WIDTHS.get(export.get("gguf_type", ""), WIDTHS[custom["precision"]])
    return Written(
        checkpoints=_checkpoints(spec["tuning_parameters"]) * moved.count * _FP32 * _CHECKPOINT_NUMBERS,
        output=model if whole else moved.count * _FP32,
        merged=model if published else 0.0,
        gguf=gguf if export.get("gguf") else 0.0,
        # Its weights lie in files without a name, and beside them what GGUF is made of where it is not published.
        scratch=(model if published else 2 * model) if merges else 0.0,
    )


def _checkpoints(tuning: Mapping[str, Any]) -> int:
    """How many are there at a time."""
    limit = int(tuning.get("checkpoint_limit") or _CHECKPOINTS)
    every, steps = tuning.get("checkpoint_steps"), tuning.get("max_steps")
    known = (int(steps) - 1) // int(every) if every and steps else _CHECKPOINTS  # none after the last step
    return min(limit, known)
