"""Which modules the adapter goes into: `target_modules`, within `trainable_layers`, as PEFT is to be told.

`layers.N` and `decoder.layers.N` mean the N-th decoder block whatever the architecture calls it (`model.layers.N` in
Llama, `transformer.h.N` in GPT-2). Where blocks are chosen, PEFT gets every module's whole name: patterns over blocks
(its `layers_to_transform`) know a few architectures' words only, and refuse `all-linear`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from transformers import Conv1D

from agent.trainer.customization import ALL_LINEAR
from agent.trainer.failures import LayersNotFound, TargetModulesNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.trainer.customization import Adapter

LINEAR = (torch.nn.Linear, Conv1D)
#: What PEFT's layers of a method can stand in for; of the others: LINEAR.
ADAPTABLE: Mapping[str, tuple[type[torch.nn.Module], ...]] = {
    "lora": (*LINEAR, torch.nn.Embedding),
    "qlora": (*LINEAR, torch.nn.Embedding),
    "dora": (*LINEAR, torch.nn.Embedding),
    "oft": (torch.nn.Linear,),
    "boft": (torch.nn.Linear,),
}
#: Methods for which PEFT gets whole names always: its words for the modules they need are one architecture's, or none.
WHOLE_NAMES = ("ia3", "layernorm", "oft", "boft")
BLOCK = re.compile(r"(?:decoder\.)?layers\.(\d{1,6})")


def target_modules(base: Any, method: str, adapter: Adapter) -> tuple[str, ...]:
    """What PEFT takes: `("all-linear",)`, the names as the job has them, or whole names within the chosen layers.

    Raises:
        TargetModulesNotFound: a target matches nothing; the message lists what there is.
        LayersNotFound: a layer is not there; the message names those that are.
    """
    names = [name for name, module in base.named_modules() if _is_adaptable(module, method)]
    everything = not adapter.target_modules or ALL_LINEAR in adapter.target_modules
    if not (_linear(base, names) if everything and method != "layernorm" else names):
        raise TargetModulesNotFound(
            f"customization.method: {method} can adapt none of this model's layers; lora adapts every kind of linear "
            "layer"
        )
    for wanted in () if everything else adapter.target_modules:
        if not any(_is_called(name, wanted) for name in names):
            raise TargetModulesNotFound(
                f"customization.target_modules: {wanted} matches no module that can be adapted; this model has "
                f"{_last_words(names)}{'' if method == 'layernorm' else f', or ask for {ALL_LINEAR}'}"
            )
    if not adapter.trainable_layers and method not in WHOLE_NAMES:
        return (ALL_LINEAR,) if everything else adapter.target_modules
    wanted_names = wanted_modules(base, method, adapter)
    if not wanted_names:
        inside = within(base, adapter.trainable_layers, names)
        raise TargetModulesNotFound(
            f"customization.target_modules: {', '.join(adapter.target_modules)} matches no module within "
            f"customization.trainable_layers, which have {_last_words(inside) or 'none that can be adapted'}"
        )
    return wanted_names


def wanted_modules(base: Any, method: str, adapter: Adapter) -> tuple[str, ...]:
    """The paths of all modules that the job wants adapted.

    Raises:
        LayersNotFound: a layer is not there; the message names those that are.
    """
    names = [name for name, module in base.named_modules() if _is_adaptable(module, method)]
    inside = within(base, adapter.trainable_layers, names)
    if adapter.target_modules and ALL_LINEAR not in adapter.target_modules:
        return tuple(name for name in inside if _is_any(name, adapter.target_modules))
    return tuple(inside if method == "layernorm" else _linear(base, inside))


def within(base: Any, layers: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the names (of modules or parameters) that lie within the layers; all of them where none are chosen.

    Raises:
        LayersNotFound: a layer is not there; the message names those that are.
    """
    if not layers:
        return list(names)
    chosen = [path for layer in layers for path in _paths(base, layer)]
    return [name for name in names if any(name == path or name.startswith(f"{path}.") for path in chosen)]


def _is_adaptable(module: torch.nn.Module, method: str) -> bool:
    if method == "layernorm":
        # Each architecture has a class of its own for its norms; they agree on how it is called.
        return type(module).__name__.endswith("Norm") and any(True for _ in module.parameters(recurse=False))
    return isinstance(module, ADAPTABLE.get(method, LINEAR))


def blocks(base: Any) -> str:
    """The path of the list of the model's decoder blocks; empty if there is none that can be told."""
    count = getattr(base.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    }
    # Of lists of that length (a block's experts may be as many) the blocks hold the most.
    return max(lists, key=lambda name: lists[name], default="")


def _paths(base: Any, layer: str) -> list[str]:
    """The modules that an entry of `trainable_layers` means."""
    path = blocks(base)
    alias = BLOCK.fullmatch(layer)
    if alias and path:
        if int(alias[1]) < len(base.get_submodule(path)):
            return [f"{path}.{int(alias[1])}"]
        found = []
    else:
        found = [name for name, _ in base.named_modules() if name and _is_called(name, layer)]
    if not found:
        there = f"the decoder blocks layers.0 to layers.{len(base.get_submodule(path)) - 1} ({path})" if path else ""
        others = ", ".join(name for name, _ in base.named_children())
        raise LayersNotFound(
            f"customization.trainable_layers: {layer} is no part of this model, which has "
            f"{there or 'no list of decoder blocks that can be told'}; modules are named by their path below {others}"
        )
    return found


def _linear(base: Any, names: Sequence[str]) -> list[str]:
    """Every linear layer but the output head, as PEFT's `all-linear` has it."""
    head = base.get_output_embeddings()
    modules = {name: base.get_submodule(name) for name in names}
    return [name for name, module in modules.items() if isinstance(module, LINEAR) and module is not head]


def _is_called(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _is_any(name: str, wanted: Iterable[str]) -> bool:
    return any(_is_called(name, one) for one in wanted)


def _last_words(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))
