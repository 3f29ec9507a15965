"""Experts of a mixture: one parameter of three dimensions for all experts of a block, and no linear layers.

What a method does with them is PEFT's affair, and differs from architecture to architecture: of some, LoRA's
`all-linear` adapts them (as parameters, not modules), of others it passes over them, as every other method does; and
bitsandbytes quantizes modules only. None of that is said by PEFT. Here it is found on the model's shapes, and told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.trainer.customization import ALL_LINEAR
from agent.trainer.failures import ConfigInvalid
from agent.trainer.layers import wanted_modules, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.customization import Customization

Warnings = list[tuple[str, str]]
BEGINNINGS = (True, False, "gaussian")
"""Of `init_lora_weights`: those that PEFT has for a parameter; the others take a layer's `weight`."""
MOST_NAMES = 4


def expert_parameters(base: Any) -> dict[str, Any]:
    """The parameters that hold all experts of a block, by their paths in a model without an adapter."""
    return {name: parameter for name, parameter in base.named_parameters() if parameter.dim() == 3}


def require_treatable(customization: Customization, base: Any, adapted: Sequence[str]) -> None:
    """Refuse what PEFT cannot do with experts that it adapts, or would do to others than those asked for.

    Args:
        customization: the job's.
        base: the model.
        adapted: paths of the parameters that PEFT adapts.

    Raises:
        ConfigInvalid: names the field and the remedy.
    """
    if not adapted:
        return
    beginning, layers = customization.adapter.initialisation, customization.adapter.trainable_layers
    if beginning not in BEGINNINGS:
        raise ConfigInvalid(
            f"customization.peft.config.init_lora_weights: {beginning} is no beginning for the experts of this model "
            f"({_listed(adapted)}); leave it out, or name customization.target_modules, without {ALL_LINEAR}"
        )
    outside = sorted(set(adapted) - set(within(base, layers, adapted)))
    if outside:
        raise ConfigInvalid(
            f"customization.trainable_layers: PEFT takes the names of layers in these for those of experts in every "
            f"block, and would adapt {_listed(outside)}; leave trainable_layers out, or name other target_modules"
        )


def warnings_of(customization: Customization, base: Any, modules: Sequence[str], adapted: Sequence[str]) -> Warnings:
    """What of a mixture is not treated as the job would have it, by reason; empty for a model without experts.

    Args:
        customization: the job's; its method puts an adapter into modules.
        base: the model as it was before.
        modules: paths of the modules that PEFT adapts.
        adapted: paths of the parameters that it does.
    """
    experts = expert_parameters(base)
    found: Warnings = []
    if not experts:
        return found
    adapter, method = customization.adapter, customization.method
    everything = not adapter.target_modules or ALL_LINEAR in adapter.target_modules
    total = base.num_parameters()
    left = sorted(set(within(base, adapter.trainable_layers, list(experts))) - set(adapted))
    if everything and left and method != "layernorm":
        share = sum(experts[name].numel() for name in left) / total
        said = (
            f"customization.target_modules: {method} leaves the experts of this model as they are, {share:.0%} of its "
            f"parameters ({_listed(left)}); only lora without trainable_layers adapts experts, and of some "
            "architectures only"
        )
        found.append(("EXPERTS_NOT_ADAPTED", said))
    left = sorted(set(wanted_modules(base, method, adapter)) - set(modules))
    if adapted and left and not adapter.config.get("exclude_modules"):
        said = (
            f"customization.target_modules: PEFT takes the names of {len(left)} layers of this model for those of its "
            f"experts, and leaves the layers as they are ({_listed(left)})"
        )
        found.append(("LAYERS_NOT_ADAPTED", said))
    if customization.quantization is not None:
        share = sum(parameter.numel() for parameter in experts.values()) / total
        said = (
            f"customization.method: qlora quantizes linear layers, and leaves the experts of this model in "
            f"{customization.precision}: {share:.0%} of its parameters ({_listed(sorted(experts))})"
        )
        found.append(("EXPERTS_NOT_QUANTIZED", said))
    return found


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
