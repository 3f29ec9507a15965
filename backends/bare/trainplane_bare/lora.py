"""LoRA (Hu et al. 2021), and its files in PEFT's format: `base_model.model.` before a module's name."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from trainplane_bare.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainplane_bare.plan import Plan

_BLOCK = re.compile(r"(?:.*\.)?layers\.(\d+)")


class Lora(nn.Module):
    """A linear layer that stays as it is, and what is learnt beside it: x A^T B^T * alpha / rank, in fp32."""

    def __init__(self, inner: nn.Linear, *, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()
        self.inner = inner
        self.scaling = scaling
        self.dropout = dropout
        device = inner.weight.device
        a = torch.empty(rank, inner.in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.a = nn.Parameter(a.to(device))
        self.b = nn.Parameter(torch.zeros(inner.out_features, rank, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer says, and the learnt."""
        given = functional.dropout(x.to(self.a.dtype), self.dropout, self.training)
        learnt = functional.linear(functional.linear(given, self.a), self.b) * self.scaling
        out: torch.Tensor = self.inner(x)
        return out + learnt.to(out.dtype)


def adapt(model: nn.Module, plan: Plan) -> dict[str, Lora]:
    """Put an adapter beside every module that the plan names; by the modules' paths, in the model's order.

    Raises:
        Failure: TARGET_MODULES_NOT_FOUND or LAYERS_NOT_FOUND.
    """
    linear = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear) and name != "lm_head"}
    chosen = _within(plan.trainable_layers, model, _targets(plan.target_modules, linear))
    adapters = {}
    for path in chosen:
        parent, _, name = path.rpartition(".")
        adapters[path] = Lora(
            linear[path], rank=plan.rank, scaling=plan.lora_alpha / plan.rank, dropout=plan.lora_dropout
        )
        setattr(model.get_submodule(parent), name, adapters[path])
    return adapters


def save(directory: Path, adapters: dict[str, Lora], plan: Plan) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named_tensors(adapters).items()}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
        "base_model_name_or_path": plan.model_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        "peft_type": "LORA",
        "r": plan.rank,
        "revision": plan.model_commit or None,
        "target_modules": list(adapters),
        "task_type": "CAUSAL_LM",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def named_tensors(adapters: dict[str, Lora]) -> dict[str, nn.Parameter]:
    """Everything that is trained, by PEFT's names."""
    return {
        f"base_model.model.{path}.lora_{kind}.weight": tensor
        for path, adapter in adapters.items()
        for kind, tensor in (("A", adapter.a), ("B", adapter.b))
    }


def _targets(wanted: Sequence[str], linear: dict[str, nn.Linear]) -> list[str]:
    for name in wanted:
        if name != "all-linear" and not any(_ends_with(path, name) for path in linear):
            there = sorted({path.rpartition(".")[2] for path in linear})
            why = f"customization.target_modules: {name} is no linear layer of this model; it has {', '.join(there)}"
            raise Failure("TARGET_MODULES_NOT_FOUND", why)
    return [path for path in linear if "all-linear" in wanted or any(_ends_with(path, name) for name in wanted)]


def _within(layers: Sequence[str], model: nn.Module, paths: list[str]) -> list[str]:
    if not layers:
        return paths
    names = [name for name, _ in model.named_modules()]
    parents = set()
    for layer in layers:
        block = _BLOCK.fullmatch(layer)
        found = [name for name in names if _ends_with(name, f"layers.{block[1]}" if block else layer)]
        if not found:
            raise Failure("LAYERS_NOT_FOUND", f"customization.trainable_layers: the model has no {layer}")
        parents.update(found)
    kept = [path for path in paths if any(path == parent or path.startswith(f"{parent}.") for parent in parents)]
    if not kept:
        why = "customization.trainable_layers: no module of target_modules is in them; name other ones"
        raise Failure("TARGET_MODULES_NOT_FOUND", why)
    return kept


def _ends_with(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
