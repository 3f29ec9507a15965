"""What the training computes on, and what a pass costs there."""

from __future__ import annotations

import logging
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agent.trainer.arithmetic import Arithmetic, require_compute_type, require_precision
from agent.trainer.data.order import PassCost
from agent.trainer.failures import ConfigInvalid
from trainplane.backends.memory import CPU_PASS_TOKENS, GPU_PASS_TOKENS

log = logging.getLogger("trainer")

CPU_COST = PassCost(limit=CPU_PASS_TOKENS, overhead=64)
"""A pass reads all weights once, which takes as long as computing some 60 tokens (135M parameters, 2 cores). More than
a few hundred tokens a pass gain nothing, and take memory: 1,024, with logits over 49k words, made 3.5 GB."""

GPU_COST = PassCost(limit=GPU_PASS_TOKENS, overhead=1024)
"""A pass launches thousands of kernels whatever its size. The search for what fits begins at the limit."""

_WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")
"""What torch calls the CPUs on which it computes bf16 value by value."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device."""

    torch_device: torch.device
    name: str
    cost: PassCost

    @property
    def memory_bytes(self) -> int:
        """All that the device has; 0 of a CPU, whose memory the ranks share."""
        on_gpu = self.torch_device.type == "cuda"
        return torch.cuda.get_device_properties(self.torch_device).total_memory if on_gpu else 0

    def gpu_facts(self) -> dict[str, Any] | None:
        """For the provenance: a GPU's memory, and what it is driven by; None of a CPU."""
        if self.torch_device.type != "cuda":
            return None
        return {"memory_bytes": self.memory_bytes, "cuda": torch.version.cuda, "driver": driver_version()}

    def peak_memory_bytes(self) -> int:
        """The most device memory that tensors have taken so far; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.torch_device) if self.torch_device.type == "cuda" else 0


def computes_bf16() -> bool:
    """Whether this machine's CPU has arithmetic of bf16: where it has not, fp32 is several times as fast."""
    return torch.backends.cpu.get_cpu_capability() not in _WITHOUT_BF16


def choose(precision: str, *, wants_gpu: bool, compute_type: str = "") -> Device:
    """The GPU that the job was given, else the CPU.

    Args:
        precision: the job's.
        wants_gpu: whether it was given one.
        compute_type: what QLoRA expands its weights to; empty: the job has none.

    Raises:
        ConfigInvalid: a GPU was given and torch cannot use it.
        PrecisionUnsupported: the device cannot compute in the precision, or in the compute type.
    """
    device, able = _found(precision, wants_gpu=wants_gpu)
    require_precision(precision, able)
    if compute_type:
        require_compute_type(compute_type, able)
    return device


def _found(precision: str, *, wants_gpu: bool) -> tuple[Device, Arithmetic]:
    if not wants_gpu:
        if precision == "bf16" and not computes_bf16():
            log.warning("customization.precision: this CPU has no bf16 arithmetic; fp32 is several times as fast on it")
        name = _cpu_name()
        return Device(torch.device("cpu"), name, CPU_COST), Arithmetic(name, on_gpu=False, bf16=True)
    if not torch.cuda.is_available():
        raise ConfigInvalid(
            "resources.gpus: a device was assigned, and this node's torch cannot use it (a build without CUDA?)"
        )
    name = torch.cuda.get_device_name(0)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Device(torch.device("cuda", 0), name, GPU_COST), Arithmetic(name, on_gpu=True, bf16=bf16)


def driver_version(proc: Path = Path("/proc")) -> str | None:
    """NVIDIA's kernel driver's; None: it does not say."""
    try:
        said = (proc / "driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3,4}(?:\.\d+){1,2}\b", said)
    return found[0] if found else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "cpu"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
