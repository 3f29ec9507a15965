"""`customization.method`: what each method has of the spec's own fields, and which of PEFT's it obeys besides.

One row a method. The spec's judge, `peft_config` and the trainer read the same table, so that a field which a method
does not have is a contradiction at submit, and never something that was passed over in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainplane.backends import peft_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainplane.backends.peft_fields import Fields

#: Fields of `customization` that only some methods have.
PLACES = ("rank", "lora_alpha", "lora_dropout", "target_modules", "trainable_layers")

#: What the methods that train a prompt begin with, unless `peft.config` says otherwise.
VIRTUAL_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        peft_type: PEFT's word for it; empty: it has no adapter.
        config_class: the name of PEFT's class, for messages.
        fields: that class's table.
        own: PEFT's field -> the field of `customization` that is its place.
        places: those of PLACES that it has.
        accepted: PEFT's fields that the trainer obeys.
        lacks: why it has not all of PLACES, for messages.
        prompt: it trains virtual tokens before the text instead of weights.
        trains_base: what it trains are weights of the base model, kept in fp32 while they are trained.
    """

    peft_type: str
    config_class: str = ""
    fields: Fields = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)
    places: frozenset[str] = frozenset()
    accepted: frozenset[str] = frozenset()
    lacks: str = ""
    prompt: bool = False
    trains_base: bool = False


_MODULES = frozenset({"target_modules", "trainable_layers"})
_TARGETS = {"target_modules": "target_modules"}
_BLOCKS = frozenset({"exclude_modules", "layers_to_transform"})
_LORA_PLACES = frozenset(PLACES)
_LORA_OWN = {"r": "rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", **_TARGETS}
_LORA_ACCEPTED = frozenset(
    {
        *_BLOCKS,
        "alpha_pattern",
        "bias",
        "eva_config",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_bias",
        "modules_to_save",
        "rank_pattern",
        "use_dora",
        "use_rslora",
    }
)

_LORA = Method("LORA", "LoraConfig", peft_fields.LORA, _LORA_OWN, _LORA_PLACES, _LORA_ACCEPTED)

_PROMPT = "trains a prompt, and no part of the model"

METHODS: Mapping[str, Method] = {
    "lora": _LORA,
    "qlora": _LORA,
    "dora": Method(
        "LORA",
        "LoraConfig",
        peft_fields.LORA,
        {**_LORA_OWN, "use_dora": "method"},
        _LORA_PLACES,
        _LORA_ACCEPTED - {"use_dora", "lora_bias"},
    ),
    "adalora": Method(
        "ADALORA",
        "AdaLoraConfig",
        peft_fields.ADALORA,
        {**_LORA_OWN, "target_r": "rank"},
        _LORA_PLACES,
        _BLOCKS | {"beta1", "beta2", "deltaT", "fan_in_fan_out", "init_r", "orth_reg_weight", "tfinal", "tinit"},
    ),
    "ia3": Method(
        "IA3",
        "IA3Config",
        peft_fields.IA3,
        _TARGETS,
        _MODULES,
        frozenset({"exclude_modules", "fan_in_fan_out", "feedforward_modules"}),
        "scales what flows, and has no such thing",
    ),
    "vera": Method(
        "VERA",
        "VeraConfig",
        peft_fields.VERA,
        {"r": "rank", "vera_dropout": "lora_dropout", **_TARGETS},
        _MODULES | {"rank", "lora_dropout"},
        frozenset({"d_initial", "fan_in_fan_out", "layers_to_transform", "projection_prng_key"}),
        "has no scaling of its own",
    ),
    "oft": Method(
        "OFT",
        "OFTConfig",
        peft_fields.OFT,
        _TARGETS,
        _MODULES,
        _BLOCKS
        | {
            "block_share",
            "coft",
            "eps",
            "module_dropout",
            "num_cayley_neumann_terms",
            "oft_block_size",
            "r",
            "use_cayley_neumann",
        },
        "rotates blocks of a size (peft.config's oft_block_size), and has no such thing",
    ),
    "boft": Method(
        "BOFT",
        "BOFTConfig",
        peft_fields.BOFT,
        _TARGETS,
        _MODULES,
        _BLOCKS | {"boft_block_num", "boft_block_size", "boft_dropout"},
        "rotates blocks of a size (peft.config's boft_block_size), and has no such thing",
    ),
    "prompt_tuning": Method(
        "PROMPT_TUNING",
        "PromptTuningConfig",
        peft_fields.PROMPT_TUNING,
        accepted=frozenset({"num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text"}),
        lacks=_PROMPT,
        prompt=True,
    ),
    "prefix_tuning": Method(
        "PREFIX_TUNING",
        "PrefixTuningConfig",
        peft_fields.PREFIX_TUNING,
        accepted=frozenset({"encoder_hidden_size", "init_weights", "num_virtual_tokens", "prefix_projection"}),
        lacks=_PROMPT,
        prompt=True,
    ),
    "p_tuning": Method(
        "P_TUNING",
        "PromptEncoderConfig",
        peft_fields.P_TUNING,
        accepted=frozenset(
            {
                "encoder_dropout",
                "encoder_hidden_size",
                "encoder_num_layers",
                "encoder_reparameterization_type",
                "num_virtual_tokens",
            }
        ),
        lacks=_PROMPT,
        prompt=True,
    ),
    "layernorm": Method(
        "LN_TUNING",
        "LNTuningConfig",
        peft_fields.LN_TUNING,
        _TARGETS,
        _MODULES,
        frozenset({"exclude_modules"}),
        "trains the norms as they are, and has no such thing",
        trains_base=True,
    ),
    "full": Method("", places=frozenset({"trainable_layers"}), lacks="trains no adapter", trains_base=True),
}
