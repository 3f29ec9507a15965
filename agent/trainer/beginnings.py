"""Ways for a LoRA adapter to begin that do not go with every layer: refused before a weight is loaded.

What PEFT does there instead is another thing, or nothing: an embedding does not begin as PiSSA or OLoRA, so that what
is published as plain LoRA would be the base model again, without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import Conv1D

from agent.trainer.failures import ConfigInvalid

if TYPE_CHECKING:
    from agent.trainer.customization import Customization


def require_beginning(customization: Customization, model: Any) -> None:
    """Refuse layers that cannot begin as the job asks.

    Args:
        customization: the job's.
        model: the PEFT model, of shapes.

    Raises:
        ConfigInvalid: names the first such layer.
    """
    adapter = customization.adapter
    if not isinstance(adapter.initialisation, str):
        return
    head = model.get_base_model().get_output_embeddings()
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        base, why = module.get_base_layer(), ""
        if adapter.moves_base and isinstance(base, torch.nn.Embedding):
            why = "is an embedding, of which PEFT takes nothing out"
        elif adapter.initialisation == "olora" and isinstance(base, Conv1D):
            why = "lies transposed in this architecture, which PEFT does not reckon with"
        elif adapter.initialisation == "eva" and module is head:
            why = "is the head, which sees only the positions that are trained on"
        if why:
            name = path.removeprefix("base_model.model.")
            raise ConfigInvalid(
                f"customization.peft.config.init_lora_weights: `{adapter.initialisation}` does not go with {name}, "
                f"which {why}; leave it out of customization.target_modules, or begin otherwise"
            )
