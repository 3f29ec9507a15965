"""LoRA's layers with as few passes over the data as their mathematics needs (ADR 0030).

    PEFT      y = x Wᵀ;  f = fp32(x);  f Aᵀ;  (f Aᵀ) Bᵀ;  times scale;  y + that, in fp32;  back to y's type
    here      y = x Wᵀ;  y += (x Aᵀ) (scale B)ᵀ

The weights A and B stay PEFT's, in fp32, and so do their gradients' sums and the optimizer; products are computed in
the type of what flows through the layer, as autocast would. The backward pass is written out: it keeps nothing but x,
which layers side by side share, and x Aᵀ, where PEFT keeps a copy of x in fp32 for each.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch.autograd.function import once_differentiable

ADAPTER = "default"
TYPES = (torch.float32, torch.bfloat16)
"""In fp16 a gradient summed over tokens leaves its range long before that in fp32 does."""


class _Adapted(torch.autograd.Function):
    """x, what of it the adapter sees, W, A, scale B -> y, for a frozen W. All of one type.

    What the adapter sees is None where it is x itself.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seen: torch.Tensor | None, *weights: torch.Tensor) -> torch.Tensor:
        base, down, up = weights
        flat = x.flatten(0, -2)
        narrow = (flat if seen is None else seen.flatten(0, -2)) @ down.T
        ctx.is_dropped = seen is not None
        ctx.save_for_backward(x if seen is None else seen, base, down, up, narrow)
        return (flat @ base.T).addmm_(narrow, up.T).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        seen, base, down, up, narrow = ctx.saved_tensors
        flat = gradients[0].flatten(0, -2)
        into_narrow = flat @ up
        into_x = into_seen = None
        if ctx.needs_input_grad[0]:
            into_x = flat @ base
            if ctx.is_dropped:
                into_seen = (into_narrow @ down).view(seen.shape)
            else:
                into_x.addmm_(into_narrow, down)
            into_x = into_x.view(seen.shape)
        return into_x, into_seen, None, into_narrow.T @ seen.flatten(0, -2), flat.T @ narrow


class _Fused(Linear):
    """PEFT's layer with another forward pass, for as long as it is in plain use."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        base: Any = self.base_layer
        weight, bias = base.weight, base.bias
        if args or kwargs or self.merged or self.disable_adapters or x.dtype != weight.dtype:
            return super().forward(x, *args, **kwargs)
        dropout = self.lora_dropout[ADAPTER]
        drops = self.training and isinstance(dropout, torch.nn.Dropout)
        down = self.lora_A[ADAPTER].weight.to(x.dtype)
        up = (self.lora_B[ADAPTER].weight * self.scaling[ADAPTER]).to(x.dtype)
        y: torch.Tensor = _Adapted.apply(x, dropout(x) if drops else None, weight, down, up)  # type: ignore[no-untyped-call]
        return y if bias is None else y + bias


def fuse(model: Any) -> int:
    """Let all layers of a PEFT model compute so that can; how many they are.

    Those with variants (DoRA) or a base layer of another kind stay PEFT's.
    """
    fusible = [module for module in model.modules() if _is_fusible(module)]
    for module in fusible:
        module.__class__ = _Fused
    return len(fusible)


def _is_fusible(module: Any) -> bool:
    return (
        type(module) is Linear
        and type(module.base_layer) is torch.nn.Linear
        and list(module.lora_A) == module.active_adapters == [ADAPTER]
        and isinstance(module.lora_dropout[ADAPTER], (torch.nn.Identity, torch.nn.Dropout))
        and not module.lora_variant
        and not module.lora_bias[ADAPTER]
        and not module.fan_in_fan_out
        and not module.base_layer.weight.requires_grad
        and module.base_layer.weight.dtype in TYPES
    )
