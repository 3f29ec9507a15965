"""`provenance.json`: all that is needed to say where an adapter came from and to make it again."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from agent.trainer.first_line import timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.trainer.assignment import Assignment
    from agent.trainer.corpus import Corpus
    from agent.trainer.loss import Evaluation
    from agent.trainer.model import AdaptedModel
    from agent.trainer.schedule import Schedule
    from agent.trainer.train import History

FORMAT_VERSION = 1
CURVE_POINTS = 1000
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "accelerate")


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
            "model_name": assignment.model_name,
            "architectures": adapted.model.get_base_model().config.architectures,
            "parameters": sum(parameter.numel() for parameter in adapted.model.get_base_model().parameters())
            - adapted.trainable_count,
            "sha256": dict(finished.digests),
        },
        "adapter": {
            "method": "lora",
            "target_modules": list(adapted.target_modules),
            "trainable_parameters": adapted.trainable_count,
            "dtype": str(adapted.trainable[0].dtype).removeprefix("torch."),
        },
        "datasets": finished.corpus.facts(),
        "training": {
            "seed": assignment.tuning.seed,
            "precision": assignment.precision,
            "world_size": 1,
            "effective_batch_size": assignment.tuning.batch_size,
            "micro_batch_size": history.micro_batch_examples,
            "steps": len(history.losses),
            "epochs": round(schedule.epoch(len(history.losses)), 4),
            "warmup_steps": schedule.warmup_steps,
            "lr_scheduler": schedule.kind,
            "peak_learning_rate": schedule.peak,
            "tokens": history.tokens,
            "trained_tokens": history.trained_tokens,
            "padded_tokens": history.padded_tokens,
            "seconds": round(history.seconds, 3),
        },
        "losses": {
            "first": round(history.losses[0], 6),
            "last": round(history.losses[-1], 6),
            "steps": _thinned(history.losses),
            "eval_before": None if evaluation is None else round(evaluation.before, 6),
            "eval_after": None if evaluation is None else round(evaluation.after, 6),
        },
        "hardware": {
            "device": adapted.device.name,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "spec": assignment.spec,
    }


def _thinned(losses: Sequence[float]) -> list[float]:
    """The loss curve: every step's, or every n-th so that there are at most CURVE_POINTS."""
    return [round(loss, 6) for loss in losses[:: -(-len(losses) // CURVE_POINTS)]]
