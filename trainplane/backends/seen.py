"""What a node has seen of a job's inputs, read from its answer: a node proves who it is, not that it means well."""

from __future__ import annotations

import json
import math
from typing import Any

_MOST_TENSORS = 20_000
_MOST_SIZES, _LARGEST_SIZE = 8, 2**32
_LARGEST = 1e18


def parse(text: str) -> dict[str, Any]:
    """What was seen of `model` and `datasets`, in the form of docs/backends.md, and `disk_free_bytes`.

    What is not of that form is left out: unknown.
    """
    try:
        told = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    found: dict[str, Any] = {}
    if not isinstance(told, dict):
        return found
    model, datasets = told.get("model"), told.get("datasets")
    if _is_amount(told.get("disk_free_bytes")):
        found["disk_free_bytes"] = told["disk_free_bytes"]
    if isinstance(model, dict) and _is_model(model):
        found["model"] = model
    if isinstance(datasets, list):
        found["datasets"] = [each if isinstance(each, dict) and _is_dataset(each) else None for each in datasets]
    return found


def _is_model(model: dict[str, Any]) -> bool:
    tensors = model.get("tensors")
    return (
        isinstance(model.get("config"), dict)
        and isinstance(model.get("here"), bool)
        and _is_amount(model.get("bytes"))
        and isinstance(tensors, list)
        and len(tensors) <= _MOST_TENSORS
        and all(_is_tensor(each) for each in tensors)
    )


def _is_tensor(tensor: Any) -> bool:
    return (
        isinstance(tensor, list)
        and len(tensor) == 3
        and isinstance(tensor[0], str)
        and isinstance(tensor[1], list)
        and 1 <= len(tensor[1]) <= _MOST_SIZES
        and all(isinstance(size, int) and 1 <= size <= _LARGEST_SIZE for size in tensor[1])
        and _is_amount(tensor[2])
    )


def _is_dataset(dataset: dict[str, Any]) -> bool:
    return all(_is_amount(dataset.get(name)) for name in ("bytes", "rows", "tokens", "longest", "share"))


def _is_amount(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 <= value <= _LARGEST
    )
