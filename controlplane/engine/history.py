"""How fast jobs like one have trained: from what they measured, which SQL has anyway (docs/adr/0023)."""

from __future__ import annotations

import json
from statistics import harmonic_mean, median
from typing import TYPE_CHECKING, Any

from controlplane.domain import spec
from controlplane.domain.capacity import matches
from controlplane.domain.job import State
from controlplane.engine.ports import JobFilter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controlplane.domain.attempt import Attempt
    from controlplane.domain.job import JobRecord, Requirement
    from controlplane.domain.node import Node
    from controlplane.domain.spec import Rules
    from controlplane.engine.ports import Transaction

CPU = "CPU"
_LOOKED_AT = 200
"""Jobs that succeeded last, of the project."""
_ENOUGH = 5
"""Jobs alike, the newest."""
_CHUNKS = 4
_WARMING_STEPS = 2
"""The first ones allocate; where there are more, they do not count."""


def device_of(node: Node, need: Requirement) -> str:
    """The kind of device that a job would get there."""
    if not need.gpus:
        return CPU
    return next((gpu.type for gpu in node.inventory.gpus if matches(need.gpu_type, gpu.type)), "")


def tokens_per_second(
    tx: Transaction, effective: Mapping[str, Any], device: str, *, project: str, rules: Rules
) -> float:
    """The median of jobs of this model, method, precision and number of devices of this kind; 0: there are none.

    Args:
        tx: is read only.
        effective: the spec that asks.
        device: as `device_of` says it.
        project: whose jobs count.
        rules: fill in what older jobs left to the platform.
    """
    kinds = {node.name: {gpu.index: gpu.type for gpu in node.inventory.gpus} for node in tx.nodes()}
    speeds: list[float] = []
    for record in tx.records(JobFilter(project, states=[State.SUCCEEDED]), limit=_LOOKED_AT):
        attempt = record.attempts[-1] if record.attempts else None
        if attempt is None or _device(attempt, kinds) != device or not _alike(record, effective, rules):
            continue
        if speed := _speed(tx, attempt):
            speeds.append(speed)
        if len(speeds) == _ENOUGH:
            break
    return median(speeds) if speeds else 0.0


def _device(attempt: Attempt, kinds: Mapping[str, Mapping[int, str]]) -> str:
    if not attempt.devices:
        return CPU
    return kinds.get(attempt.node, {}).get(attempt.devices[0], "")


def _alike(record: JobRecord, effective: Mapping[str, Any], rules: Rules) -> bool:
    sent = json.loads(record.sent)
    if sent["base_model"]["model_name"] != effective["base_model"]["model_name"]:
        return False
    return _key(spec.effective(sent, job_id=record.job.job_id, rules=rules)) == _key(effective)


def _key(effective: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a token dear: model, engine, method, precision, recomputation, and how many devices share the work."""
    model, custom, tuning = effective["base_model"], effective["customization"], effective["tuning_parameters"]
    return (
        effective["backend"],
        model["provider"],
        model["model_name"],
        custom["method"],
        custom["precision"],
        bool(tuning.get("gradient_checkpointing")),
        effective["resources"]["gpus"],
    )


def _speed(tx: Transaction, attempt: Attempt) -> float:
    """Tokens a second over an attempt's steps: the harmonic mean, for steps have about equally many tokens."""
    chunks = tx.metric_chunks(attempt.job_uid, after=(attempt.number - 1, 2**62), limit=_CHUNKS)
    found: list[float] = []
    for chunk in chunks:
        found += [value for value in json.loads(chunk.series).get("tokens_per_second", ()) if value]
    return harmonic_mean(_settled(found)) if found else 0.0


def _settled(values: Sequence[float]) -> Sequence[float]:
    return values[_WARMING_STEPS:] if len(values) > 2 * _WARMING_STEPS else values
