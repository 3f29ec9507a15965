"""Whose fault it is that a loss is no number before anything was trained: looked for only when it has happened."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from agent.trainer.failures import ConfigInvalid, LossNotFinite, ModelFormatUnsupported

if TYPE_CHECKING:
    from agent.trainer.model import AdaptedModel


def require_finite_weights(adapted: AdaptedModel) -> None:
    """Blame the model, if it is to blame; of a sharded one each rank looks at its part.

    Raises:
        ModelFormatUnsupported: a weight is NaN or infinite.
        ConfigInvalid: DoRA is to divide by the length of weights that are all 0, as a padding token's often are.
    """
    local = (lambda tensor: tensor) if adapted.sharding is None else adapted.sharding.local
    names = [
        name
        for name, parameter in adapted.base.named_parameters()
        if parameter.is_floating_point() and not torch.isfinite(local(parameter.detach())).all()
    ]
    if names:
        first = names[0].replace(".base_layer", "")
        raise ModelFormatUnsupported(
            f"base_model.model_name: {len(names)} of its weights hold NaN or infinity, the first {first}; "
            "fetch the model anew, ask for another customization.precision, or name another model"
        )
    for name, parameter in adapted.base.named_parameters():
        layer, is_length, _ = name.partition(".lora_magnitude_vector")
        without = int((local(parameter.detach()) == 0).sum()) if is_length else 0
        if without:
            raise ConfigInvalid(
                f"customization.target_modules: the weights of {without} outputs of {layer} are all 0, as a padding "
                "token's may be, and DoRA divides by their length; leave it out, or use method lora"
            )


def checked(adapted: AdaptedModel, loss: float) -> float:
    """The loss on the eval split before training.

    Raises:
        ModelFormatUnsupported, LossNotFinite: it is no number.
    """
    if not math.isfinite(loss):
        require_finite_weights(adapted)
        raise LossNotFinite(
            f"datasets: before training the loss on split eval is {loss}; ask for customization.precision bf16 or "
            "fp32, or look for broken rows in it"
        )
    return loss
