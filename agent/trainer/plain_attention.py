"""Causal attention of documents in a row on a CPU: torch's own kernel, document by document (ADR 0037).

Short documents are widened to fp32 for it. In bf16 it takes up to twice as long over them, because its backward pass
lays out every block anew before it multiplies it, and rounds more. What is kept for the backward pass is what flows by,
not the wide copies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

SHORT = 256
"""Tokens of the document that the average token is in; over longer ones both take alike."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - what sdpa calls on a CPU
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001


class _Documents(torch.autograd.Function):
    """q, k, v as (1, heads, tokens, size), of k and v perhaps fewer heads -> (1, tokens, heads, size)."""

    @staticmethod
    def forward(ctx: Any, lengths: list[int], scale: float | None, *heads: torch.Tensor) -> torch.Tensor:
        query, _, value = heads
        ctx.lengths, ctx.scale, ctx.dtype = lengths, scale, _type(lengths, value)
        made = value.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        logarithms = []
        for *document, into in _each(lengths, *(each.to(ctx.dtype) for each in heads), made.transpose(1, 2)):
            attended, logarithm = _forward(*document, 0.0, True, scale=scale)
            into.copy_(attended)
            logarithms.append(logarithm)
        ctx.save_for_backward(*heads, made, *logarithms)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, made, *logarithms = ctx.saved_tensors
        found = [torch.empty_like(each) for each in (query, key, value)]
        given = (gradients[0].transpose(1, 2), query, key, value, made.transpose(1, 2))
        documents = zip(_each(ctx.lengths, *(each.to(ctx.dtype) for each in given)), logarithms, strict=True)
        for (document, logarithm), into in zip(documents, _each(ctx.lengths, *found), strict=True):
            for gradient, to in zip(_backward(*document, logarithm, 0.0, True, scale=ctx.scale), into, strict=True):
                to.copy_(gradient)
        return None, None, *found


def _type(lengths: list[int], value: torch.Tensor) -> torch.dtype:
    """What is computed in."""
    short = sum(length * length for length in lengths) < SHORT * sum(lengths)
    return torch.float32 if short else value.dtype


def _each(lengths: list[int], *rows: torch.Tensor) -> Any:
    """What of each row of tokens is of the first document, of the second, and so on."""
    return zip(*(torch.split(row, lengths, dim=2) for row in rows), strict=True)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], *, scale: float | None
) -> torch.Tensor:
    """Each token's attention to those of its own document that stand before it, and to itself. Differentiable once.

    Args:
        query: (1, heads, tokens, size).
        key: the same of as many heads, or fewer.
        value: as `key`; of its type is what is given back.
        lengths: of the documents, which come to all tokens.
        scale: of the products; None: one by the root of the size.

    Returns:
        (1, tokens, heads, size).
    """
    made: torch.Tensor = _Documents.apply(lengths, scale, query, key, value)  # type: ignore[no-untyped-call]
    return made
