"""Shuts the training off from the network and from devices that are not its own, before any library can look.

Customers' models are hostile (quality.md): no hub, no telemetry, no remote code. The environment is read by torch,
transformers and huggingface_hub when they are imported, so this comes first.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PRELOADING = "agent.trainer.preloading"
"""A module that is imported in processes that were forked with all libraries in them."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "true",
    # Where all ranks are on this host they talk where nobody else listens; see `isolate` for a gang's.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


def leave_out_libraries(*, quantizing: bool) -> None:
    """Let this process take libraries that it does not need for missing ones, for the rest of its life.

    PEFT and accelerate import them wherever they are installed: a third of what a start costs (2.4 of 7 CPU seconds),
    for each rank. To every import system a module that is None in `sys.modules` is not there.

    Args:
        quantizing: whether the base model will be quantized, which bitsandbytes does. It asks CUDA for devices at its
            import, so the process that a trainer was forked from has taken it for missing until now.
    """
    sys.modules["boto3"] = None  # type: ignore[assignment]  # accelerate's; the uploader has storage's secrets, not we
    if not quantizing:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    elif sys.modules.get("bitsandbytes", sys) is None:
        del sys.modules["bitsandbytes"]


def isolate(devices: Sequence[str], *, interface: str | None = None) -> None:
    """Set the environment of this process; idempotent. Effective only before torch and transformers are imported.

    Args:
        devices: what it may use.
        interface: of the network that ranks on other nodes are on; empty: the libraries choose. None: there are none.
    """
    os.environ.update(ENVIRONMENT)
    if interface is not None:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ[name] = interface
            if not interface:
                del os.environ[name]
    # OpenMP's threads spin at every barrier by default. On a host that others use too, the one spun for is not running:
    # a small training took 16-26 s so, and 0.7-2 s with threads that sleep (ADR 0005).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
