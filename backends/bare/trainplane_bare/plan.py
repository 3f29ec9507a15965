"""What is to be trained: `assignment.json` and `inputs.json`, read once."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from trainplane_bare.engine import MICRO_BATCH_SIZE, Bare
from trainplane_bare.failure import Failure
from trainplane_bare.redaction import redacted

GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset, on this node."""

    field: str
    """Its path in the spec, for messages."""
    called: str
    path: Path
    format: str
    """`json`, `jsonl`, or empty: as the file's suffix says."""
    columns: dict[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """One attempt. Numbers are the spec's, whose defaults the platform has filled in."""

    uid: str
    devices: tuple[str, ...]
    deadline_seconds: float | None
    grace_seconds: float
    """At the deadline and at SIGTERM: for the step that is being made, and a last checkpoint."""
    resume_from: str
    model_path: Path
    model_name: str
    model_commit: str
    sources: tuple[Source, ...]
    rank: int
    lora_alpha: float
    lora_dropout: float
    target_modules: tuple[str, ...]
    trainable_layers: tuple[str, ...]
    precision: str
    micro_batch_size: int
    tuning: dict[str, Any]
    spec: dict[str, Any]

    def total_steps(self, examples: int) -> int:
        """Optimizer steps over so many examples."""
        if self.tuning.get("max_steps"):
            return int(self.tuning["max_steps"])
        return max(1, math.ceil(round(self.steps_per_epoch(examples) * float(self.tuning.get("num_epochs", 1)), 6)))

    def steps_per_epoch(self, examples: int) -> int:
        """The last of them may have fewer examples."""
        return math.ceil(examples / int(self.tuning.get("batch_size", 8)))

    def rate(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0: linear warm-up from 1/n of the peak, then the schedule."""
        peak, kind = self.tuning.get("learning_rate", 2e-4), self.tuning.get("lr_scheduler", "linear")
        warmup = math.ceil(round(total * self.tuning.get("warmup_ratio", 0), 6))
        if step < warmup:
            return float(peak * (step + 1) / warmup)
        done = (step - warmup) / max(1, total - warmup)
        return float(peak * {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[kind])


def read(directory: Path) -> Plan:
    """The plan of the attempt in that directory.

    Raises:
        Failure: CONFIG_INVALID: it is not what the contract says, or asks for what the loop does not do.
    """
    try:
        document = json.loads((directory / "assignment.json").read_bytes())
        return _plan(document, _inputs(directory))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Failure("CONFIG_INVALID", f"assignment.json cannot be read: {type(error).__name__}: {error}") from error


def _inputs(directory: Path) -> dict[str, Any] | None:
    path = directory / "inputs.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def _plan(document: dict[str, Any], inputs: dict[str, Any] | None) -> Plan:
    spec = document["spec"]
    # A job may have been accepted by another version of the engine than this node's.
    for field, _, description in Bare().validate(spec):
        raise Failure("CONFIG_INVALID", f"{field}: {description}")
    if document.get("world_size", 1) != 1 or len(document.get("devices", ())) > 1:
        raise Failure("CONFIG_INVALID", "resources.gpus: backend bare trains on one device")
    custom, named = spec["customization"], spec["base_model"]["model_name"]
    model = inputs["model"] if inputs else {"path": named, "name": named}
    fetched = [each["path"] for each in inputs["datasets"]] if inputs else [""] * len(spec["datasets"])
    rank = custom.get("rank", 16)
    return Plan(
        uid=document.get("uid", ""),
        devices=tuple(map(str, document.get("devices", ()))),
        deadline_seconds=document.get("deadline_seconds"),
        grace_seconds=GRACE_SECONDS if (grace := document.get("checkpoint_grace_seconds")) is None else grace,
        resume_from=document.get("resume_from", ""),
        model_path=Path(model["path"]),
        model_name=model["name"],
        model_commit=model.get("commit", ""),
        sources=tuple(
            _source(i, each, path) for i, (each, path) in enumerate(zip(spec["datasets"], fetched, strict=True))
        ),
        rank=rank,
        lora_alpha=custom.get("lora_alpha", 2 * rank),
        lora_dropout=custom.get("lora_dropout", 0.0),
        target_modules=tuple(custom.get("target_modules", ["all-linear"])),
        trainable_layers=tuple(custom.get("trainable_layers") or ()),
        precision=custom.get("precision", "bf16"),
        micro_batch_size=(spec.get("backend_options") or {}).get("micro_batch_size", MICRO_BATCH_SIZE),
        tuning=spec.get("tuning_parameters") or {},
        spec=spec,
    )


def _source(index: int, dataset: dict[str, Any], fetched: str) -> Source:
    path = fetched or unquote(urlsplit(dataset["source"]).path)
    return Source(
        field=f"datasets[{index}].source",
        called=redacted(dataset["source"]),
        path=Path(path),
        format=dataset.get("format") or "",
        columns=dataset.get("columns") or {},
    )
