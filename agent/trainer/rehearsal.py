"""What a job names in its model, tried on the model's shapes: before a row is tokenized, or a weight loaded.

The model is built from its `config.json` on the meta device, which takes milliseconds and no memory, and the same code
as in the training itself puts the adapter into it. What depends on the weights (how an adapter begins, what a
quantized layer is) or on the data (AdaLoRA's course) is left to the training, which refuses as it did.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import LoraLayer

from agent.trainer import experts
from agent.trainer.beginnings import require_beginning
from agent.trainer.failures import ConfigInvalid
from agent.trainer.layers import target_modules
from agent.trainer.methods import Situation
from agent.trainer.model import ANOTHER_MODEL, Blaming, weights_dtype, whole, with_adapter
from agent.trainer.sharding import shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.trainer.assignment import Assignment
    from agent.trainer.customization import Customization
    from agent.trainer.model_files import ModelFiles
    from agent.trainer.reports import Reports

MANY_STEPS = 10**9
"""Of a training whose length nobody knows yet: enough for whatever AdaLoRA is to do in them."""

log = logging.getLogger("trainer")


def rehearse(assignment: Assignment, files: ModelFiles, reports: Reports) -> None:
    """Refuse at once what the model's shapes show to be impossible. Leaves nothing behind.

    Args:
        assignment: the attempt's.
        files: the model's.
        reports: told what of a mixture of experts will not be treated as the job would have it.

    Raises:
        ModelFormatUnsupported: the architecture is unknown, or no model can be built of its configuration.
        TargetModulesNotFound, LayersNotFound: a name matches nothing; the message lists what there is.
        ConfigInvalid: PEFT refuses its configuration for this model.
    """
    customization = assignment.customization
    if customization.kind.prompt:
        return  # it is put before the model, and names nothing in it
    with Blaming("it", ANOTHER_MODEL):
        base = shapes(files, weights_dtype(customization))
    if not customization.kind.peft_type:
        whole(base, customization.adapter.trainable_layers, name=assignment.model.name)
        return
    targets = target_modules(base, customization.method, customization.adapter)
    with Blaming("it", ANOTHER_MODEL):
        bare = shapes(files, weights_dtype(customization)) if experts.expert_parameters(base) else None
    situation = Situation(base, targets, MANY_STEPS, str(files.directory))
    model = _adapt(customization, situation, assignment.model.name)
    if model is not None:
        require_beginning(customization, model)
        _judge_ranks(customization, model, reports)
    if bare is not None:
        modules, parameters = _adapted(model)
        experts.require_treatable(customization, bare, parameters)
        for reason, message in experts.warnings_of(customization, bare, modules, parameters):
            reports.warning(reason, message)


def _judge_ranks(customization: Customization, model: Any, reports: Reports) -> None:
    """A delta has no more ranks than its layer is wide: what is above takes memory and learns nothing more.

    Raises:
        ConfigInvalid: it would begin as so many parts of the base weights, which have not so many: PEFT makes another
            adapter of it than it says, that is found out when it is to be published.
    """
    modules: list[tuple[str, Any]] = list(model.named_modules())
    layers = [(name, module) for name, module in modules if isinstance(module, LoraLayer)]
    widths = [(_width(module), max(module.r.values()), name) for name, module in layers]
    wide = [(width, rank, name) for width, rank, name in widths if rank > width]
    if wide:
        width, rank, name = wide[0]
        said = (
            f"customization.rank: {rank} is more than {width}, the width of {name.removeprefix('base_model.model.')} "
            f"({len(wide)} of {len(widths)} layers are narrower than that): "
        )
        if customization.adapter.moves_base:
            least = min(width for width, _, _ in wide)
            raise ConfigInvalid(
                f"{said}init_lora_weights `{customization.adapter.initialisation}` takes as many parts out of a "
                f"weight; lower it to {least} at most, or begin otherwise"
            )
        reports.warning("RANK_ABOVE_WIDTH", f"{said}lower it, for nothing more is learnt so")


def _width(layer: Any) -> int:
    return int(min(layer.in_features, layer.out_features))


def _adapted(model: Any) -> tuple[Sequence[str], Sequence[str]]:
    """The modules and parameters that PEFT adapts, by their paths; none where it could not be tried."""
    tuner = getattr(model, "base_model", None)
    return getattr(tuner, "targeted_module_names", ()), getattr(tuner, "targeted_parameter_names", ())


def _adapt(customization: Customization, situation: Situation, name: str) -> Any:
    """The PEFT model, of shapes; None where that cannot be had without weights."""
    plain = _beginning_anyhow(customization)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the training itself tells them
        try:
            return with_adapter(plain, situation, name=name)
        except ConfigInvalid as refused:
            if not isinstance(refused.__cause__, NotImplementedError):
                raise
            # That is how torch refuses to give numbers of a tensor that has none.
            log.info("rehearsal=partial reason=%s", refused.__cause__)
        except RuntimeError as error:
            log.info("rehearsal=partial reason=%s", error)
    return None


def _beginning_anyhow(customization: Customization) -> Customization:
    """The same, but that the adapter begins as it likes: most ways of beginning compute with weights."""
    adapter = customization.adapter
    if not isinstance(adapter.initialisation, str):
        return customization
    config = {key: value for key, value in adapter.config.items() if key not in ("init_lora_weights", "eva_config")}
    return replace(customization, adapter=replace(adapter, config=config))
