"""`provenance.json`: all that is needed to say where an adapter came from and to make it again."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agent.trainer.first_line import timestamp
from agent.trainer.redaction import without_keys

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from agent.trainer.assignment import Assignment
    from agent.trainer.corpus import Corpus
    from agent.trainer.history import History
    from agent.trainer.loss import Evaluation
    from agent.trainer.model import AdaptedModel
    from agent.trainer.schedule import Schedule

FORMAT_VERSION = 1
CURVE_POINTS = 1000
LISTED_EXAMPLES = 10_000
"""Of a training set up to that size, the examples that each rank has seen are listed by number."""
_DIGESTED = 1 << 16
PACKAGES = ("trainplane", "torch", "transformers", "peft", "tokenizers", "safetensors", "accelerate", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Finished:
    """A training that has come to its end."""

    assignment: Assignment
    corpus: Corpus
    adapted: AdaptedModel
    schedule: Schedule
    history: History
    evaluation: Evaluation | None
    """None without an eval split."""
    digests: Mapping[str, str]
    """sha256 of the base model's files."""
    ranks: Sequence[RankFacts]
    """Every rank's, in their order."""


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What one rank has done."""

    rank: int
    device: str
    first_epoch: array[int]
    padded_tokens: int
    micro_batch_examples: int
    adapter_sha256: str
    """Of the trained parameters: the same on all ranks, unless each has a part of them."""
    parameter_bytes: int
    """Of the model's parameters, what it held between passes."""

    def document(self, *, listed: bool) -> dict[str, Any]:
        """As JSON; `listed`: with the numbers of the examples, not only their digest."""
        numbers = np.sort(np.array(self.first_epoch, dtype=np.uint32))
        return {
            "rank": self.rank,
            "device": self.device,
            "adapter_sha256": self.adapter_sha256,
            "parameter_bytes": self.parameter_bytes,
            "first_epoch": {
                "examples": len(numbers),
                "sha256": _digest(numbers),
                **({"numbers": numbers.tolist()} if listed else {}),
            },
        }


def _digest(numbers: NDArray[np.uint32]) -> str:
    """The SHA-256 of the numbers as text, a comma between any two."""
    digest = sha256()
    for start in range(0, len(numbers), _DIGESTED):
        said = ",".join(map(str, numbers[start : start + _DIGESTED].tolist()))
        digest.update((f",{said}" if start else said).encode())
    return digest.hexdigest()


def rank_facts(rank: int, adapted: AdaptedModel, history: History) -> RankFacts:
    """What this rank has done."""
    digest = sha256()
    for parameter in adapted.trainable:
        digest.update(adapted.local(parameter.detach()).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return RankFacts(
        rank=rank,
        device=adapted.device.name,
        first_epoch=history.first_epoch,
        padded_tokens=history.padded_tokens,
        micro_batch_examples=history.micro_batch_examples,
        adapter_sha256=digest.hexdigest(),
        parameter_bytes=sum(
            part.numel() * part.element_size() for part in map(adapted.local, adapted.model.parameters())
        ),
    )


def provenance(finished: Finished) -> dict[str, Any]:
    """The facts of a training as a JSON object."""
    assignment, adapted, history = finished.assignment, finished.adapted, finished.history
    schedule, evaluation = finished.schedule, finished.evaluation
    return {
        "format_version": FORMAT_VERSION,
        "create_time": timestamp(),
        "job_id": assignment.job_id,
        "uid": assignment.uid,
        "attempt": assignment.attempt,
        "base_model": {
            "model_name": assignment.model.name,
            "commit": assignment.model.commit,
            "architectures": adapted.base.config.architectures,
            "parameters": adapted.parameters,
            "dtype": assignment.customization.precision,
            "quantization": adapted.quantization,
            "sha256": dict(finished.digests),
        },
        "adapter": {
            "method": assignment.customization.method,
            "target_modules": list(adapted.target_modules),
            "trainable_parameters": adapted.trainable_count,
            "dtype": str(adapted.trainable[0].dtype).removeprefix("torch."),
            **({} if adapted.allocation is None else {"ranks": adapted.allocation.ranks()}),
        },
        "datasets": finished.corpus.facts(),
        "training": {
            "seed": assignment.tuning.seed,
            "precision": assignment.customization.precision,
            "world_size": assignment.world_size,
            "sharding": None if adapted.sharding is None else adapted.sharding.facts(),
            "effective_batch_size": assignment.tuning.batch_size,
            "micro_batch_size": max(rank.micro_batch_examples for rank in finished.ranks),
            "steps": len(history.losses),
            "skipped_steps": history.skipped_steps,
            "resumed_from": history.resumed_from,
            "epochs": round(schedule.epoch(len(history.losses)), 4),
            "warmup_steps": schedule.warmup_steps,
            "lr_scheduler": schedule.kind,
            "peak_learning_rate": schedule.peak,
            "gradient_checkpointing": assignment.tuning.gradient_checkpointing,
            "tokens": history.tokens,
            "trained_tokens": history.trained_tokens,
            "padded_tokens": sum(rank.padded_tokens for rank in finished.ranks),
            "seconds": round(history.seconds, 3),
        },
        "ranks": [rank.document(listed=len(finished.corpus.train) <= LISTED_EXAMPLES) for rank in finished.ranks],
        "losses": {
            "first": round(history.losses[0], 6),
            "last": round(history.losses[-1], 6),
            "steps": _thinned(history.losses),
            "eval_before": None if evaluation is None else round(evaluation.before, 6),
            "eval_after": None if evaluation is None else round(evaluation.after, 6),
        },
        "hardware": {
            "device": adapted.device.name,
            "gpu": adapted.device.gpu_facts(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "spec": without_keys(assignment.spec),
    }


def _version(name: str) -> str | None:
    """A distribution's; None: it runs from where nothing says its version."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _thinned(losses: Sequence[float]) -> list[float]:
    """The loss curve: every step's, or every n-th so that there are at most CURVE_POINTS."""
    return [round(loss, 6) for loss in losses[:: -(-len(losses) // CURVE_POINTS)]]
