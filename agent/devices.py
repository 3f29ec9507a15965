"""What this host has: GPUs as NVML says, CPUs, memory. Or a declared inventory that stands in (`--gpus 4xA100`)."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1024**3
_STAND_IN_CPUS = 32
_STAND_IN_MEMORY_GB = 256.0
#: Short names that people write, and what the driver would say and hold.
_KNOWN = {
    "A100": ("NVIDIA A100-SXM4-80GB", 80),
    "A100-40GB": ("NVIDIA A100-SXM4-40GB", 40),
    "A100-80GB": ("NVIDIA A100-SXM4-80GB", 80),
    "H100": ("NVIDIA H100 80GB HBM3", 80),
    "H200": ("NVIDIA H200", 141),
    "B200": ("NVIDIA B200", 180),
    "L4": ("NVIDIA L4", 24),
    "L40S": ("NVIDIA L40S", 48),
    "V100": ("Tesla V100-SXM2-32GB", 32),
    "T4": ("Tesla T4", 16),
}
_UNKNOWN_MEMORY_GB = 80
_STAND_IN = re.compile(r"([1-9][0-9]{0,2})x([A-Za-z0-9][A-Za-z0-9 _.-]{0,62})")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device; `kind` is its name as the driver says it."""

    index: int
    kind: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the node has. Simulated: declared, not found; bounds are not enforced and trainers get no device."""

    gpus: tuple[Gpu, ...]
    cpus: int
    memory_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False


def parse_stand_in(text: str) -> tuple[Gpu, ...]:
    """The devices that `4xA100` declares; `0` declares none.

    Raises:
        ValueError: it is neither a count and a name, nor 0.
    """
    if text == "0":
        return ()
    match = _STAND_IN.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a count and a type, as in 4xA100, or 0; got {text!r}")
    kind, memory_gb = _KNOWN.get(match[2].upper(), (match[2], _UNKNOWN_MEMORY_GB))
    return tuple(Gpu(index, kind, memory_gb * GIB) for index in range(int(match[1])))


def declared(
    gpus: tuple[Gpu, ...], *, cpus: int | None, memory_gb: float | None, labels: Mapping[str, str]
) -> Inventory:
    """A stand-in inventory; what was not declared of it takes the default, not what this host has."""
    return Inventory(
        gpus=gpus,
        cpus=cpus or _STAND_IN_CPUS,
        memory_bytes=int((memory_gb or _STAND_IN_MEMORY_GB) * GIB),
        labels=dict(labels),
        simulated=True,
    )


def found(*, cpus: int | None, memory_gb: float | None, labels: Mapping[str, str]) -> Inventory:
    """What this host has; `cpus` and `memory_gb` bound what is offered of it."""
    own_cpus = len(os.sched_getaffinity(0))
    own_memory = int(psutil.virtual_memory().total)
    return Inventory(
        gpus=_nvml_gpus(),
        cpus=min(cpus or own_cpus, own_cpus),
        memory_bytes=min(int(memory_gb * GIB) if memory_gb else own_memory, own_memory),
        labels=dict(labels),
    )


def _nvml_gpus() -> tuple[Gpu, ...]:
    """The GPUs that NVML knows; none where it, its driver or a device is missing."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_nvml_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    kind = name.decode() if isinstance(name, bytes) else str(name)
    return Gpu(index, kind, int(nvml.nvmlDeviceGetMemoryInfo(handle).total))
