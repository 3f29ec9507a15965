"""Makes sure, before a packed training, that the model at hand keeps the documents of a row apart.

Whether it does is a matter of its architecture's code and of the adapter's: one that ignores `position_ids`, or that
makes a mask of its own, lets each document see those before it, and nothing in the loss would show it. So it is tried:
what a document's logits are must not depend on what stands before it, nor on whether anything does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.trainer.data.batches import collate_rows
from agent.trainer.data.tokens import Example
from agent.trainer.failures import ConfigInvalid

if TYPE_CHECKING:
    import torch

    from agent.trainer.model import AdaptedModel

DOCUMENT_TOKENS = 12
SAME = 1e-3
"""Relative; a pass of the same shape over the same document computes the same numbers, but for the kernels' order."""
ALIKE = 0.05
"""Relative; elsewhere in its row it meets other parts of the kernels, which may round bf16 and 4 bits otherwise."""


def require_separation(adapted: AdaptedModel) -> None:
    """Try it with two documents. Leaves the model in training mode, and draws no random number.

    Raises:
        ConfigInvalid: documents see each other, or the model takes no positions.
    """
    vocabulary = adapted.base.config.get_text_config().vocab_size
    one, other, document = (
        Example(
            (np.arange(DOCUMENT_TOKENS, dtype=np.int32) * step + step) % vocabulary,
            np.ones(DOCUMENT_TOKENS, dtype=np.bool_),
        )
        for step in (1, 5, 3)
    )
    adapted.model.eval()
    try:
        after_one, after_other = (_logits(adapted, [before, document])[-len(document) :] for before in (one, other))
        # With something behind it, which it does not see: passes of unlike shapes round bf16 by a tenth of the logits.
        first = _logits(adapted, [document, one])[: len(document)]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigInvalid(
            f"tuning_parameters.packing: this model takes no packed rows ({str(error)[:200]}); leave it out"
        ) from error
    finally:
        adapted.model.train()
    if _apart(after_one, after_other) > SAME or _apart(after_one, first) > ALIKE:
        raise ConfigInvalid(
            "tuning_parameters.packing: in this model, with this method, packed documents would see each other; "
            "leave it out"
        )


def _logits(adapted: AdaptedModel, row: list[Example]) -> torch.Tensor:
    """Of a row, in fp32."""
    batch = collate_rows([row], pad_id=adapted.pad_id, device=adapted.device.torch_device)
    with adapted.evaluating(), adapted.computing():
        logits: torch.Tensor = adapted.model(
            input_ids=batch.ids, position_ids=batch.position_ids, use_cache=False
        ).logits
    return logits[0].float()


def _apart(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm())
