"""What a training by `peft` takes, from the effective spec and from what a node has seen of its inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trainplane.backends import sharding
from trainplane.backends.disk import written
from trainplane.backends.estimate import Estimate
from trainplane.backends.memory import kept_bytes, memory_needed, one_pass
from trainplane.backends.model_shape import ModelShape, UnknownShape
from trainplane.backends.peft_methods import METHODS, VIRTUAL_TOKENS
from trainplane.backends.trained import trained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainplane.backends.disk import Written
    from trainplane.backends.trained import Trained

_MODEL_UNSEEN = "no node has looked at the model"
_DATA_UNSEEN = "no node has looked at every dataset"
_NO_HISTORY = "no job of this model and method has finished on such a device yet"
_SHORT_ROW = 8
#: What the trainer writes of its data while it trains: a row's entry and example's end, and each token.
_ROW_BYTES, _TOKEN_BYTES = 40, 4


def estimate(spec: Mapping[str, Any], seen: Mapping[str, Any], *, on_gpu: bool, tokens_per_second: float) -> Estimate:
    """What it takes; what is not known says why.

    Args:
        spec: the effective one.
        seen: what a node told (docs/adr/0023): `model` {config, tensors, bytes, here} and `datasets`, each
            {bytes, rows, tokens, longest, share} or None; and `device_bytes`, the memory of the GPUs that it could get.
            Each may be absent.
        on_gpu: whether the devices are GPUs.
        tokens_per_second: of jobs like it; 0: there are none.
    """
    unknown: dict[str, str] = {}
    shape, moved = _model(spec, seen, unknown)
    data = _Data.of(spec, seen)
    if data is None:
        unknown["tokens"] = _DATA_UNSEEN
        if not spec["tuning_parameters"].get("max_steps"):
            unknown["steps"] = _DATA_UNSEEN
    memory, needed, parts = None, None, 1
    if shape is None or moved is None or data is None:
        unknown["gpu_memory_bytes"] = unknown.get("trainable_parameters") or _DATA_UNSEEN
    else:
        try:
            parts = _parts(spec, shape, moved, float(seen.get("device_bytes", 0.0)))
            pass_made = data.largest_pass(shape, on_gpu=on_gpu)
            memory, needed = memory_needed(
                spec["customization"], spec["tuning_parameters"], shape, moved, pass_made, parts=parts
            )
        except UnknownShape as why:
            unknown["gpu_memory_bytes"] = str(why)
    tokens = None if data is None else data.tokens(shape)
    seconds = tokens / tokens_per_second if tokens is not None and tokens_per_second else None
    if seconds is None:
        unknown["seconds"] = unknown.get("tokens", _NO_HISTORY)
    disk = _disk(spec, seen, shape, moved)
    if disk is None:
        unknown["disk_bytes"] = _MODEL_UNSEEN if "model" not in seen else unknown.get("tokens", _DATA_UNSEEN)
    return Estimate(
        parameters=shape.parameters if shape else None,
        trainable_parameters=moved.count if moved else None,
        gpu_memory_bytes=needed,
        memory=memory,
        sharded=parts > 1,
        steps=data.steps if data else spec["tuning_parameters"].get("max_steps"),
        tokens=tokens,
        seconds=seconds,
        disk_bytes=disk,
        unknown=unknown,
    )


def least_device_bytes(spec: Mapping[str, Any], seen: Mapping[str, Any]) -> float:
    """What each GPU must hold for a single row of a few tokens: weights, what is trained, its gradient and averages.

    Whoever has less cannot train it: the trainer makes its passes as small as they must be, but not these. Of a model
    that may be sharded it is each device's part. 0: unknown.
    """
    shape, moved = _model(spec, seen, {})
    if shape is None or moved is None:
        return 0.0
    row = one_pass(batch=1, longest=_SHORT_ROW, virtual=0, trained_share=0.0, on_gpu=True)
    try:
        # On a device of so little memory it would be sharded, if it can be.
        each_way = {1, _parts(spec, shape, moved, 1.0)}
        blocks = spec["customization"], spec["tuning_parameters"]
        return min(memory_needed(*blocks, shape, moved, row, parts=parts)[1] for parts in each_way)
    except UnknownShape:
        return 0.0


def least_disk(spec: Mapping[str, Any], seen: Mapping[str, Any]) -> Written | None:
    """What its trainer writes to the node's disk at least, its data's tokens not counted; None: unknown."""
    shape, moved = _model(spec, seen, {})
    return None if shape is None or moved is None else written(spec, shape, moved)


def _parts(spec: Mapping[str, Any], shape: ModelShape, moved: Trained, device_bytes: float) -> int:
    """Over how many devices the model is sharded; 1: it is not.

    Raises:
        UnknownShape: the shapes do not tell.
    """
    devices, custom = int(spec["resources"].get("gpus") or 0), spec["customization"]
    asked = spec["tuning_parameters"].get("sharding") or sharding.AUTO
    kept = kept_bytes(custom, shape, moved)
    found = sharding.shards(asked, custom, devices=devices, kept=kept, device_bytes=device_bytes)
    return devices if found else 1


def _model(
    spec: Mapping[str, Any], seen: Mapping[str, Any], unknown: dict[str, str]
) -> tuple[ModelShape | None, Trained | None]:
    """The model's shape and what is moved in it, as far as they can be told."""
    if "model" not in seen:
        unknown["parameters"] = unknown["trainable_parameters"] = _MODEL_UNSEEN
        return None, None
    try:
        shape = ModelShape.of(seen["model"]["config"], seen["model"]["tensors"])
    except UnknownShape as why:
        unknown["parameters"] = unknown["trainable_parameters"] = str(why)
        return None, None
    try:
        return shape, trained(spec["customization"], shape)
    except UnknownShape as why:
        unknown["trainable_parameters"] = str(why)
        return shape, None


class _Data:
    """The rows that are trained on."""

    def __init__(self, spec: Mapping[str, Any], looks: list[Mapping[str, Any]]) -> None:
        self._spec = spec
        self._tuning = spec["tuning_parameters"]
        self._looks = looks
        rows = sum(look["rows"] for look in looks)
        self.rows: float = max(1.0, rows * (1 - float(self._tuning.get("eval_fraction") or 0.0)))
        per_epoch = math.ceil(self.rows / self._tuning["batch_size"])
        # As the trainer's schedule has it.
        whole = max(1, math.ceil(round(per_epoch * self._tuning["num_epochs"], 6)))
        self.epochs = float(self._tuning["num_epochs"])
        self.steps = int(self._tuning.get("max_steps") or whole)

    @classmethod
    def of(cls, spec: Mapping[str, Any], seen: Mapping[str, Any]) -> _Data | None:
        """None: some dataset of split train was not looked at."""
        looks = _looks(spec, seen)
        chosen = [look for look, of in zip(looks, spec["datasets"], strict=True) if of.get("split") != "eval"]
        known = [look for look in chosen if look is not None and look.get("rows")]
        return cls(spec, known) if known and len(known) == len(chosen) else None

    def _virtual(self) -> int:
        custom = self._spec["customization"]
        if not METHODS[custom["method"]].prompt:
            return 0
        return int(custom.get("peft", {}).get("config", {}).get("num_virtual_tokens") or VIRTUAL_TOKENS)

    def _limit(self, shape: ModelShape | None) -> int:
        made_for = shape.positions if shape else None
        limit = int(self._tuning["max_sequence_length"])
        return max(1, min(limit, made_for - self._virtual()) if made_for else limit)

    def tokens(self, shape: ModelShape | None) -> float:
        """Over all steps."""
        rows = sum(look["rows"] for look in self._looks)
        mean: float = sum(min(look["tokens"], self._limit(shape)) * look["rows"] for look in self._looks) / rows
        if self._tuning.get("max_steps"):
            return self.steps * min(float(self._tuning["batch_size"]), self.rows) * mean
        return self.rows * self.epochs * mean

    def largest_pass(self, shape: ModelShape, *, on_gpu: bool) -> Any:
        """The largest micro-batch of one device."""
        longest = min(max(look["longest"] for look in self._looks), self._limit(shape))
        devices = max(1, int(self._spec["resources"].get("gpus") or 0))
        prefix = self._spec["customization"]["method"] == "prefix_tuning"
        return one_pass(
            batch=max(1, min(int(self._tuning["batch_size"]), math.ceil(self.rows)) // devices),
            longest=int(longest),
            virtual=0 if prefix else self._virtual(),
            trained_share=max(look["share"] for look in self._looks),
            on_gpu=on_gpu,
            packed=bool(self._tuning.get("packing")),
        )


def _looks(spec: Mapping[str, Any], seen: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """For each dataset of the spec what was seen of it."""
    looks: list[Mapping[str, Any] | None] = seen.get("datasets", [])
    return looks if len(looks) == len(spec["datasets"]) else [None] * len(spec["datasets"])


def _disk(
    spec: Mapping[str, Any], seen: Mapping[str, Any], shape: ModelShape | None, moved: Trained | None
) -> float | None:
    """What the node's disk must take: inputs that are not there yet, tokens, and what the trainer writes."""
    if "model" not in seen or shape is None or moved is None:
        return None
    fetched, longest = 0.0, int(spec["tuning_parameters"]["max_sequence_length"])
    for look, of in zip(_looks(spec, seen), spec["datasets"], strict=True):
        if look is None:
            return None
        fetched += 0 if str(of["source"]).startswith("file://") else look["bytes"]
        fetched += look["rows"] * (_ROW_BYTES + _TOKEN_BYTES * min(look["tokens"], longest))
    model = seen["model"]
    return float((0 if model["here"] else model["bytes"]) + fetched + written(spec, shape, moved).total)
