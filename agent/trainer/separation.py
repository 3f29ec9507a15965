"""Makes sure, before a packed training, that the model at hand keeps the documents of a row apart, and settles how.

Whether it does is a matter of its architecture's code and of the adapter's: one that ignores `position_ids`, or that
makes a mask of its own, lets each document see those before it, and nothing in the loss would show it. So it is tried:
what a document's logits are must not depend on what stands before it, nor on whether anything does.

Where it can be, documents are attended to one by one (`documents.py`), so that a pass has no padding. Every layer must
then give what it gives with a dense mask, and the model what it gives in a plain pass. Else rows are packed and masked.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agent.trainer import documents
from agent.trainer.data.batches import collate, collate_rows
from agent.trainer.data.tokens import Example
from agent.trainer.failures import ConfigInvalid
from trainplane.backends.memory import SIDE_BY_SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.data.batches import MicroBatch
    from agent.trainer.model import AdaptedModel

DOCUMENT_TOKENS = 12
SAME = 1e-3
"""Relative; a pass of the same shape over the same document computes the same numbers, but for the kernels' order."""
ALIKE = 0.05
"""Relative; elsewhere in its row it meets other parts of the kernels, which may round bf16 and 4 bits otherwise."""

log = logging.getLogger("trainer")


def settle(adapted: AdaptedModel) -> AdaptedModel:
    """The model as packed rows will go through it. It is left in training mode, and no random number is drawn.

    Raises:
        ConfigInvalid: documents see each other, or the model takes no positions.
    """
    why = _by_document(adapted)
    if not why:
        log.info("packing=documents: side by side without padding, each attended to by itself")
        cost = replace(adapted.device.cost, limit=int(adapted.device.cost.limit * SIDE_BY_SIDE))
        return replace(adapted, attends_by_document=True, device=replace(adapted.device, cost=cost))
    log.info("packing=rows: documents in masked rows, because %s", why)
    require_separation(adapted)
    return adapted


def require_separation(adapted: AdaptedModel) -> None:
    """Try it with rows of two documents.

    Raises:
        ConfigInvalid: see `settle`.
    """
    try:
        apart = _keeps_apart(adapted)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigInvalid(
            f"tuning_parameters.packing: this model takes no packed rows ({str(error)[:200]}); leave it out"
        ) from error
    if not apart:
        raise ConfigInvalid(
            "tuning_parameters.packing: in this model, with this method, packed documents would see each other; "
            "leave it out"
        )


def _by_document(adapted: AdaptedModel) -> str:
    """Let the model attend by document; if it cannot, leave it as it was and say why not."""
    if adapted.device.torch_device.type != "cpu":
        return "on a GPU a kernel for each document would take longer than the padding does"
    if not documents.switch(adapted.base):
        return "the model's attention is not transformers' sdpa"
    try:
        with documents.compared() as distances:
            apart = _keeps_apart(adapted)
        same = ALIKE if _rounds(adapted) else SAME
        if apart and distances and max(distances) <= same and _is_plain(adapted):
            return ""
        why = "the model gave something else than for each document alone"
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        why = f"the model does not take them otherwise ({type(error).__name__}: {str(error)[:200]})"
    documents.switch_back(adapted.base)
    return why


def _keeps_apart(adapted: AdaptedModel) -> bool:
    """Whether a document's logits are the same whatever stands before it, and with nothing before it."""
    one, other, document = _documents(adapted)
    after_one, after_other = (_packed(adapted, [before, document])[-len(document) :] for before in (one, other))
    # With something behind it, which it does not see: passes of unlike shapes round bf16 by a tenth of the logits.
    first = _packed(adapted, [document, one])[: len(document)]
    return _apart(after_one, after_other) <= SAME and _apart(after_one, first) <= ALIKE


def _is_plain(adapted: AdaptedModel) -> bool:
    """Whether documents' logits are those of a plain pass, in which each has a row of its own.

    In fp32 only: layers multiply what bf16 rounds. Of SmolLM2's logits a third may differ, where no layer's attention
    does by a hundredth.
    """
    if _rounds(adapted):
        return True
    row = _documents(adapted)
    plain = _logits(adapted, collate(row, pad_id=adapted.pad_id, device=adapted.device.torch_device))
    return _apart(_packed(adapted, row), plain.flatten(0, 1)) <= SAME


def _rounds(adapted: AdaptedModel) -> bool:
    """Whether anything is computed in less than fp32."""
    return adapted.quantization is not None or (adapted.autocast or adapted.base.dtype) != torch.float32


def _documents(adapted: AdaptedModel) -> list[Example]:
    vocabulary = adapted.base.config.get_text_config().vocab_size
    return [
        Example(
            (np.arange(DOCUMENT_TOKENS, dtype=np.int32) * step + step) % vocabulary,
            np.ones(DOCUMENT_TOKENS, dtype=np.bool_),
        )
        for step in (1, 5, 3)
    ]


def _packed(adapted: AdaptedModel, row: Sequence[Example]) -> torch.Tensor:
    """The logits of a row, in fp32."""
    return _logits(adapted, collate_rows([row], pad_id=adapted.pad_id, device=adapted.device.torch_device))[0]


def _logits(adapted: AdaptedModel, batch: MicroBatch) -> torch.Tensor:
    packed: dict[str, Any] = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    adapted.model.eval()
    try:
        with adapted.evaluating(), adapted.computing():
            logits: torch.Tensor = adapted.model(input_ids=batch.ids, use_cache=False, **packed).logits
    finally:
        adapted.model.train()
    return logits.float()


def _apart(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm())
