"""From a method in the spec's words to PEFT's configuration of it (docs/adr/0019).

Where PEFT has no default, or one that does nothing, the default is ours and stands in docs/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import peft
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING

from agent.trainer.customization import ALL_LINEAR
from agent.trainer.failures import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.trainer.customization import Customization

WARM_UP, REST = 0.1, 0.2
"""AdaLoRA's shares of the steps before any rank is taken away, and after the last one was."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a configuration depends on besides the spec."""

    base: Any
    targets: Sequence[str]
    """As `layers.target_modules` has them."""
    total_steps: int
    tokenizer_path: str


def peft_configuration(customization: Customization, situation: Situation) -> Any:
    """The PEFT configuration of an adapter.

    Raises:
        ConfigInvalid: it contradicts itself for this model or this number of steps.
        ValueError, TypeError: PEFT refuses it.
    """
    kind, adapter = customization.kind, customization.adapter
    targets = list(situation.targets)
    places = {
        "rank": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": ALL_LINEAR if targets == [ALL_LINEAR] else targets,
        "method": True,  # of `dora`: use_dora
    }
    fields = {field: places[place] for field, place in kind.own.items()} | dict(adapter.config)
    more = _MORE.get(customization.method)
    if more is not None:
        more(fields, customization, situation)
    return getattr(peft, kind.config_class)(task_type="CAUSAL_LM", **fields)


def _lora(fields: dict[str, Any], _customization: Customization, _situation: Situation) -> None:
    if fields.get("init_lora_weights") == "eva":
        fields.setdefault("eva_config", {})


def _adalora(fields: dict[str, Any], customization: Customization, situation: Situation) -> None:
    del fields["r"]  # AdaLoRA has two ranks of its own, and PEFT warns of this one
    rank, steps = customization.adapter.rank, situation.total_steps
    fields.setdefault("init_r", rank + (rank + 1) // 2)
    fields.setdefault("tinit", int(WARM_UP * steps))
    fields.setdefault("tfinal", int(REST * steps))
    fields["total_step"] = steps
    if fields["tinit"] + fields["tfinal"] >= steps:
        raise ConfigInvalid(
            f"customization.peft.config.tinit: {fields['tinit']} steps before and tfinal {fields['tfinal']} after "
            f"leave none of the {steps} steps for AdaLoRA to allocate ranks in"
        )


def _ia3(fields: dict[str, Any], _customization: Customization, situation: Situation) -> None:
    """Feed-forward modules are scaled before, not after: PEFT's own choice, or the job's, as whole names."""
    told = fields.get("feedforward_modules")
    known = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(situation.base.config.model_type, [])
    wanted = list(known) if told is None else [told] if isinstance(told, str) else told
    found = {name: [target for target in situation.targets if f".{target}".endswith(f".{name}")] for name in wanted}
    for name, matches in found.items():
        if told is not None and not matches:
            raise ConfigInvalid(
                f"customization.peft.config.feedforward_modules: {name} matches no module that is adapted; those are "
                f"called {', '.join(sorted({target.rpartition('.')[2] for target in situation.targets}))}"
            )
    fields["feedforward_modules"] = [target for matches in found.values() for target in matches]


def _oft(fields: dict[str, Any], _customization: Customization, _situation: Situation) -> None:
    if fields.get("r"):
        fields["oft_block_size"] = 0


def _boft(fields: dict[str, Any], _customization: Customization, _situation: Situation) -> None:
    if fields.get("boft_block_num"):
        fields["boft_block_size"] = 0


def _prompt(fields: dict[str, Any], customization: Customization, situation: Situation) -> None:
    fields["num_virtual_tokens"] = customization.virtual_tokens
    if fields.get("prompt_tuning_init") == "TEXT":
        fields["tokenizer_name_or_path"] = situation.tokenizer_path
    elif customization.method == "p_tuning" or fields.get("prefix_projection"):
        fields.setdefault("encoder_hidden_size", situation.base.config.get_text_config(decoder=True).hidden_size)


_MORE: dict[str, Callable[[dict[str, Any], Customization, Situation], None]] = {
    "lora": _lora,
    "qlora": _lora,
    "dora": _lora,
    "adalora": _adalora,
    "ia3": _ia3,
    "oft": _oft,
    "boft": _boft,
    "prompt_tuning": _prompt,
    "prefix_tuning": _prompt,
    "p_tuning": _prompt,
}
