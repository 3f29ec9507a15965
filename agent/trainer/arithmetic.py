"""Which numbers a device computes with, and what of a job it therefore cannot do; decided without torch."""

from __future__ import annotations

from dataclasses import dataclass

from agent.trainer.failures import PrecisionUnsupported


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a device is able to.

    Attributes:
        name: the device's, for messages.
        on_gpu: whether it is a GPU; those all compute in fp16, and CPUs do not.
        bf16: whether it computes in bf16, if need be slowly (as old CPUs do); a GPU that only emulates it does not.
    """

    name: str
    on_gpu: bool
    bf16: bool


def require_precision(precision: str, able: Arithmetic) -> None:
    """Refuse a `customization.precision` that the device cannot compute in.

    Raises:
        PrecisionUnsupported: names those that it can.
    """
    if precision == "bf16" and not able.bf16:
        others = "fp16 or fp32" if able.on_gpu else "fp32"
        raise PrecisionUnsupported(f"customization.precision: {able.name} cannot compute in bf16; ask for {others}")


def require_compute_type(compute_type: str, able: Arithmetic) -> None:
    """Refuse a `customization.qlora.bnb_4bit_compute_dtype`, asked for or not, that the device lacks.

    Raises:
        PrecisionUnsupported: names those that it can.
    """
    field = "customization.qlora.bnb_4bit_compute_dtype"
    if compute_type == "float16" and not able.on_gpu:
        raise PrecisionUnsupported(f"{field}: a CPU does not compute in float16; ask for bfloat16 or float32")
    if compute_type == "bfloat16" and not able.bf16:
        others = "float16 or float32" if able.on_gpu else "float32"
        raise PrecisionUnsupported(f"{field}: {able.name} cannot compute in bfloat16, its default; ask for {others}")
