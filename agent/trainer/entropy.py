"""The summed cross-entropy of logits, and its gradient, a few positions at a time (ADR 0030).

Logits are by far the largest tensor of a training: positions x vocabulary. PyTorch's own cross-entropy wants them in
fp32, keeps their logarithms, and makes its gradient as a third of the kind. Here the gradient is made together with the
loss, in the logits' own type, out of a piece of fp32 that a cache can hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from agent.trainer.data.batches import IGNORED
from trainplane.backends.memory import CPU_LOSS_NUMBERS, GPU_LOSS_NUMBERS


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        positions = max(1, (GPU_LOSS_NUMBERS if logits.is_cuda else CPU_LOSS_NUMBERS) // logits.shape[1])
        for start in range(0, len(logits), positions):
            piece = logits[start : start + positions].float()
            counts = targets[start : start + positions, None] != IGNORED
            chosen = targets[start : start + positions, None].where(counts, 0)
            logarithms = torch.log_softmax(piece, dim=1)
            total -= logarithms.gather(1, chosen).mul_(counts).sum()
            if gradient is not None:
                shares = logarithms.exp_()
                shares.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=shares.dtype))
                gradient[start : start + positions] = shares.mul_(counts)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropies of all targets but IGNORED ones, added up in fp32. Differentiable once.

    Args:
        logits: (positions, vocabulary), in any floating type.
        targets: one for each position.
    """
    total: torch.Tensor = _Summed.apply(logits, targets)  # type: ignore[no-untyped-call]
    return total
