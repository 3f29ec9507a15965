"""Attention document by document: what several documents in one row need, and no more (ADR 0037).

transformers knows documents in a row by their positions, which begin at 0, and makes of them a mask of row x row. Here
that mask is not made: what it would say is asked for along three of its lines, and the layers get `Documents` in its
place, as they get flex attention's `BlockMask`. Each document's queries then meet its own keys only. As an argument of
every layer it is there, too, when gradient checkpointing computes one anew.

Rows of a batch compute as transformers' sdpa does. A GPU's kernel for many lengths belongs beside `plain_attention`.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agent.trainer.plain_attention import plain_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "documents"
"""As a model's `_attn_implementation`."""
_SDPA = "sdpa"
_distances: ContextVar[list[float] | None] = ContextVar("distances", default=None)


@dataclass(frozen=True, slots=True)
class Documents:
    """What the tokens of one row see: those of their own document that stand before them, and themselves."""

    lengths: list[int]
    masks: dict[int, torch.Tensor]
    """Of the documents that see less, because they are longer than a window: (1, 1, length, length)."""
    dense: torch.Tensor | None = None
    """The mask that transformers would have made; None: nobody compares."""


def switch(base: Any) -> bool:
    """Let a transformers model attend by document; False, and nothing is changed, if its attention is of its own."""
    own = base.config.get_text_config()._attn_implementation  # noqa: SLF001 - transformers has no other name for it
    if own != _SDPA or not base._can_set_attn_implementation():  # noqa: SLF001
        return False
    base.set_attn_implementation(NAME)
    return True


def switch_back(base: Any) -> None:
    """Undo `switch`."""
    base.set_attn_implementation(_SDPA)


@contextmanager
def compared() -> Iterator[list[float]]:
    """Inside it, each layer's attention is computed with the dense mask, too: how far apart they are, relatively."""
    distances: list[float] = []
    token = _distances.set(distances)
    try:
        yield distances
    finally:
        _distances.reset(token)


def _mask(
    batch_size: int, q_length: int, kv_length: int, *, mask_function: Callable[..., torch.Tensor], **kwargs: Any
) -> Documents | torch.Tensor | None:
    """What transformers' models call for their mask; see `transformers.masking_utils.sdpa_mask`."""
    plain = kwargs["attention_mask"] is None and not kwargs["use_vmap"] and not kwargs["q_offset"]
    found = None
    if plain and batch_size == 1 and q_length == kv_length:
        found = _documents(mask_function, q_length, kwargs["device"])
    if found is not None and _distances.get() is None:
        return found
    dense = sdpa_mask(batch_size, q_length, kv_length, mask_function=mask_function, **kwargs)
    return dense if found is None else Documents(found.lengths, found.masks, dense)


def _documents(sees: Callable[..., torch.Tensor], tokens: int, device: torch.device) -> Documents | None:
    """What a mask function says of one row; None: something else than documents side by side."""
    none = torch.zeros((), dtype=torch.long, device=device)
    place = torch.arange(tokens, device=device)
    if sees(none, none, place[:-1], place[1:]).any():
        return None  # tokens see the next one
    begins = torch.cat([none.view(1), place[1:][~sees(none, none, place[1:], place[:-1])]])
    ends = torch.cat([begins[1:], none.view(1) + tokens])
    whole = sees(none, none, ends - 1, begins)
    masks = {}
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        if not whole[number]:
            within = place[begin:end]
            masks[number] = sees(none, none, within[None, None, :, None], within[None, None, None, :])
    return Documents((ends - begins).tolist(), masks)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Documents | torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers' layers call; see `transformers.integrations.sdpa_attention`."""
    if not isinstance(attention_mask, Documents):
        return _sdpa(module, (query, key, value), attention_mask, kwargs), None
    bounds, masks = attention_mask.lengths, attention_mask.masks
    if query.device.type == "cpu" and not masks and _is_plain(module, query, value, kwargs):
        made = plain_attention(query, key, value, bounds, scale=kwargs.get("scaling"))
    else:
        # Split in one go: the gradients of slices would be as wide as the row, each.
        parts = zip(*(torch.split(each, bounds, dim=2) for each in (query, key, value)), strict=True)
        made = torch.cat([_sdpa(module, part, masks.get(number), kwargs) for number, part in enumerate(parts)], dim=1)
    if (distances := _distances.get()) is not None:
        other = _sdpa(module, (query, key, value), attention_mask.dense, kwargs)
        distances.append(float((made - other).float().norm() / other.float().norm()))
    return made, None


def _is_plain(module: torch.nn.Module, query: torch.Tensor, value: torch.Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether causal attention is all that a layer asks for."""
    causal = kwargs.get("is_causal")
    return (
        (getattr(module, "is_causal", True) if causal is None else causal) is True
        and not kwargs.get("dropout")
        and query.shape[3] == value.shape[3]
        and all(kwargs.get(name) is None for name in ("softcap", "position_bias", "cache"))
    )


def _sdpa(
    module: torch.nn.Module, heads: tuple[torch.Tensor, ...], mask: torch.Tensor | None, kwargs: dict[str, Any]
) -> torch.Tensor:
    query, key, value = heads
    made, _ = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    return made


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
