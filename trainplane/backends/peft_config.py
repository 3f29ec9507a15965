"""`customization.peft.config`: which of PEFT's own fields a spec may set, judged without PEFT.

Names and types are PEFT's, from its generated table. Of those that it has, some are the platform's to set, some would
read a path or import a module, and some need what this version does not do; each is refused in words.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from trainplane.backends.peft_fields import LORA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trainplane.backends.backend import Finding

PATH = "customization.peft.config"

#: Fields that have their own place in the spec; the spec's judge holds them equal to it.
OWN_PLACES = frozenset({"task_type", "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules"})

#: What the trainer obeys.
ACCEPTED = frozenset(
    {
        "alpha_pattern",
        "bias",
        "exclude_modules",
        "fan_in_fan_out",
        "init_lora_weights",
        "layers_to_transform",
        "lora_bias",
        "modules_to_save",
        "rank_pattern",
        "use_dora",
        "use_rslora",
    }
)

_NOT_ALLOWED = {
    "auto_mapping": "names a class to load, which is never done",
    "base_model_name_or_path": "is written by the trainer, from base_model",
    "inference_mode": "is set by PEFT when an adapter is saved",
    "megatron_config": "configures a library that is not loaded",
    "megatron_core": "names a module to import, which is never done",
    "peft_version": "is written by PEFT",
    "revision": "is base_model.revision",
    "runtime_config": "is not part of an adapter",
}
_INSTEAD = {"layers_pattern": "customization.trainable_layers names blocks whatever the model calls them"}

#: Initialisations that take their part out of the base weights; what is published is converted to plain LoRA.
MOVES_BASE = ("pissa", "olora")
_READY = ("gaussian", "olora", "orthogonal", "pissa")
_NOT_READY = {
    "loftq": "needs a CUDA device before the training",
    "corda": "needs a pass over the data before the training",
    "eva": "needs a pass over the data before the training",
    "lora_ga": "needs a pass over the data before the training",
}
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "dict": "an object",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "dict": (dict,),
}
_SHOWN = 60
_RANKS = (1, 1024)


def further(customization: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `peft.config` that have no place of their own, as they go to PEFT."""
    return {key: value for key, value in _config(customization).items() if key not in OWN_PLACES}


def problems(customization: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with `peft.config` of a `customization` block; never raises.

    Fields with their own place are left to the judge of the whole spec.
    """
    config = further(customization)
    found = [finding for key, value in config.items() if (finding := _field(key, value))]
    return found or [(f"{PATH}.{key}", "CONTRADICTION", words) for key, words in _contradictions(customization, config)]


def _config(customization: Mapping[str, Any]) -> Mapping[str, Any]:
    peft = customization.get("peft")
    config = peft.get("config") if isinstance(peft, dict) else None
    return config if isinstance(config, dict) else {}


def _field(key: str, value: Any) -> Finding | None:
    at = f"{PATH}.{key[:_SHOWN] if key.isidentifier() else ascii(key[:_SHOWN])}"
    if key not in LORA:
        near = get_close_matches(key[:_SHOWN], ACCEPTED, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(ACCEPTED))}"
        return (at, "UNKNOWN_FIELD", f"PEFT's LoraConfig has no such field; {meant}")
    if key in _NOT_ALLOWED:
        return (at, "NOT_ALLOWED", f"{_NOT_ALLOWED[key]}; leave it out")
    if key not in ACCEPTED:
        return (at, "NOT_YET_SUPPORTED", _INSTEAD.get(key, "this version does not obey it; leave it out"))
    if key == "init_lora_weights" and isinstance(value, str) and (problem := _initialisation(value)):
        return (at, "NOT_YET_SUPPORTED", problem)
    kinds = LORA[key][0].split(" | ")
    if not any(_is(value, kind) for kind in kinds):
        reason = "UNKNOWN_VALUE" if isinstance(value, str) and any(kind[0] == "'" for kind in kinds) else "WRONG_TYPE"
        return (at, reason, f"must be {' or '.join(_WORDS.get(kind, kind) for kind in kinds)}")
    content = _content(key, value)
    return (at, *content) if content else None


def _initialisation(value: str) -> str | None:
    if value.startswith("pissa_niter_"):
        return "an approximate PiSSA cannot be published exactly; ask for pissa, which is exact"
    if value in _READY or (f"'{value}'" not in LORA["init_lora_weights"][0] and value not in _NOT_READY):
        return None
    return f"{value} {_NOT_READY.get(value, 'is not done by this version')}; there are {', '.join(_READY)}"


def _is(value: Any, kind: str) -> bool:
    """Whether a JSON value is what PEFT's table calls so."""
    if kind.startswith("list["):
        return type(value) is list and all(_is(item, kind[5:-1]) for item in value)
    if kind in _TYPES:
        return type(value) in _TYPES[kind] and value != ""
    return isinstance(value, str) and kind == f"'{value}'"


def _content(key: str, value: Any) -> tuple[str, str] | None:
    """What PEFT's types leave open."""
    if key == "layers_to_transform":
        numbers = value if isinstance(value, list) else [value]
        return None if all(number >= 0 for number in numbers) else ("OUT_OF_RANGE", "must be from 0")
    if key in {"rank_pattern", "alpha_pattern"}:
        return _pattern(key, value)
    if key == "exclude_modules" and isinstance(value, str) and not _compiles(value):
        return ("MALFORMED", "must be a regular expression, or a list of module names")
    return None


def _pattern(key: str, pattern: Mapping[str, Any]) -> tuple[str, str] | None:
    low, high = _RANKS
    for name, value in pattern.items():
        if not _compiles(name):
            return ("MALFORMED", "must have regular expressions of module names for keys")
        if key == "rank_pattern" and not (type(value) is int and low <= value <= high):
            return ("OUT_OF_RANGE", f"must have ranks from {low} to {high} for values")
        if key == "alpha_pattern" and not (type(value) in {int, float} and value > 0):
            return ("OUT_OF_RANGE", "must have numbers above 0 for values")
    return None


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _contradictions(custom: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if config.get("layers_to_transform") is not None and custom.get("trainable_layers"):
        yield "layers_to_transform", "customization.trainable_layers says which blocks: leave one of them out"
    for name in ("bias", "modules_to_save"):
        if config.get(name) not in (None, "none", []) and custom.get("precision", "bf16") != "fp32":
            # Half precision loses most of a step (docs/trainer-contract.md): the adapter alone is kept in fp32.
            yield name, "trains weights of the base model, which only customization.precision `fp32` does without loss"
    if config.get("lora_bias") and (config.get("use_dora") or isinstance(config.get("init_lora_weights"), str)):
        yield "lora_bias", "goes with neither use_dora nor another init_lora_weights than true: leave one of them out"
    if config.get("init_lora_weights") in MOVES_BASE:
        if custom.get("method") == "qlora":
            yield "init_lora_weights", "changes the base weights, which method `qlora` has quantized: use `lora`"
        patterned = config.get("rank_pattern") or config.get("alpha_pattern")
        for name in ("use_dora", "bias", "modules_to_save", *(["use_rslora"] if patterned else [])):
            if config.get(name) not in (None, False, "none", []):
                yield name, "an adapter that began as PiSSA or OLoRA is published as plain LoRA, which cannot hold this"
