"""Whether a job's devices hold a part of the model each (docs/adr/0031): one rule for the estimate and the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO, NONE, FULL = CHOICES = ("auto", "none", "full")

ROOM = 0.8
"""Of a device's memory what may be kept in it from pass to pass, where each device holds the model whole."""


def problem(customization: Mapping[str, Any]) -> str:
    """Why what is trained cannot be sharded; empty: it can."""
    if customization.get("method") == "full" and customization.get("precision") == "fp16":
        return "method `full` in fp16 cannot be sharded yet: ask for bf16 or fp32, or leave it out"
    if customization.get("peft", {}).get("config", {}).get("init_lora_weights") == "eva":
        return "init_lora_weights `eva` looks at a model that a device holds whole: begin otherwise, or leave it out"
    return ""


def shards(asked: str, customization: Mapping[str, Any], *, devices: int, kept: float, device_bytes: float) -> bool:
    """Whether a training is sharded.

    Args:
        asked: one of CHOICES.
        customization: the effective block.
        devices: of the job.
        kept: bytes of weights, adapter, gradients and optimizer, whole.
        device_bytes: of the smallest device's memory; 0: it is not known, or there are none.
    """
    if devices < 2 or asked == NONE or problem(customization):
        return False
    return asked == FULL or 0 < device_bytes * ROOM < kept
