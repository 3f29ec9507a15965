"""`customization.peft.config`: which of PEFT's own fields a spec may set, judged without PEFT.

Names and types are PEFT's, from its generated table. Of those that it has, some are the platform's to set, some would
read a path or import a module, and some need what this version does not do; each is refused in words.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from trainplane.backends.peft_methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trainplane.backends.backend import Finding
    from trainplane.backends.peft_methods import Method

PATH = "customization.peft.config"

_NOT_ALLOWED = {
    "auto_mapping": "names a class to load, which is never done",
    "base_model_name_or_path": "is written by the trainer, from base_model",
    "inference_mode": "is set by PEFT when an adapter is saved",
    "megatron_config": "configures a library that is not loaded",
    "megatron_core": "names a module to import, which is never done",
    "num_attention_heads": "is the base model's",
    "num_layers": "is the base model's",
    "num_transformer_submodules": "is the base model's",
    "peft_version": "is written by PEFT",
    "revision": "is base_model.revision",
    "runtime_config": "is not part of an adapter",
    "save_projection": "is always true: an adapter that leaves its projections to a random generator is not whole",
    "token_dim": "is the base model's",
    "tokenizer_kwargs": "configures a tokenizer, which is the base model's",
    "tokenizer_name_or_path": "names a path; the tokenizer is the base model's",
    "total_step": "is the number of steps that tuning_parameters make",
}
_INSTEAD = {
    "boft_n_butterfly_factor": "without a CUDA extension, which PEFT compiles on the node, it is silently 1",
    "layers_pattern": "customization.trainable_layers names blocks whatever the model calls them",
}
#: Rows of methods other than LoRA, whose `rank_pattern` is a result and no wish.
_RESULTS = {("ADALORA", "rank_pattern"): "is what AdaLoRA finds out"}

#: Initialisations that take their part out of the base weights; what is published is converted to plain LoRA.
MOVES_BASE = ("pissa", "olora")
_READY = ("eva", "gaussian", "olora", "orthogonal", "pissa")
_NOT_READY = {
    "loftq": "needs a CUDA device before the training",
    "corda": "needs a pass over the data before the training",
    "lora_ga": "needs a pass over the data before the training",
}
#: Fields of PEFT's EvaConfig: numbers with their bounds, or true and false.
_EVA: dict[str, tuple[float, float] | None] = {
    "rho": (1, 16),
    "tau": (0, 1),
    "use_label_mask": None,
    "whiten": None,
    "adjust_scaling_factors": None,
}
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "dict": "an object",
    "object": "an object",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "dict": (dict,),
    "object": (dict,),
}
_SHOWN = 60
_RANKS = (1, 1024)
#: Field -> lowest, highest value, and whether the ends themselves are out.
_BOUNDS: dict[str, tuple[float, float, bool]] = {
    "beta1": (0, 1, True),
    "beta2": (0, 1, True),
    "boft_block_num": (0, 65536, False),
    "boft_block_size": (0, 65536, False),
    "boft_dropout": (0, 0.999, False),
    "deltaT": (1, 2**31 - 1, False),
    "encoder_dropout": (0, 0.999, False),
    "encoder_hidden_size": (1, 65536, False),
    "encoder_num_layers": (1, 64, False),
    "eps": (0, 1, True),
    "init_r": (*_RANKS, False),
    "module_dropout": (0, 0.999, False),
    "num_cayley_neumann_terms": (1, 64, False),
    "num_virtual_tokens": (1, 4096, False),
    "oft_block_size": (0, 65536, False),
    "orth_reg_weight": (0, 1e6, False),
    "projection_prng_key": (0, 2**63 - 1, False),
    "r": (1, 65536, False),
    "tfinal": (0, 2**31 - 1, False),
    "tinit": (0, 2**31 - 1, False),
}
#: Words that PEFT's types call only "a text".
_CHOICES = {
    "encoder_reparameterization_type": ("MLP", "LSTM"),
    "prompt_tuning_init": ("RANDOM", "SAMPLE_VOCAB", "TEXT"),
}


def own_place(customization: Mapping[str, Any], key: str) -> str | None:
    """The field of `customization` that says what PEFT's field says, or None."""
    if key == "peft_type":
        return "method"
    return _method(customization).own.get(key)


def agrees(customization: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether a PEFT field with a place of its own says the same as that place."""
    if key == "peft_type":
        return str(value).upper() == _method(customization).peft_type
    if key == "use_dora":
        return value is True
    return bool(value == customization.get(own_place(customization, key) or ""))


def further(customization: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `peft.config` that have no place of their own, as they go to PEFT."""
    return {
        key: value
        for key, value in _config(customization).items()
        if key != "task_type" and own_place(customization, key) is None
    }


def problems(customization: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with `peft.config` of a `customization` block; never raises.

    Fields with their own place are left to the judge of the whole spec.
    """
    config, method = further(customization), _method(customization)
    found = [finding for key, value in config.items() if (finding := _field(method, key, value))]
    return found or [(f"{PATH}.{key}", "CONTRADICTION", words) for key, words in _contradictions(customization, config)]


def _method(customization: Mapping[str, Any]) -> Method:
    """The block's method; one that is absent or unknown, which others tell, is judged as LoRA."""
    name = customization.get("method")
    return METHODS.get(name, METHODS["lora"]) if isinstance(name, str) else METHODS["lora"]


def _config(customization: Mapping[str, Any]) -> Mapping[str, Any]:
    peft = customization.get("peft")
    config = peft.get("config") if isinstance(peft, dict) else None
    return config if isinstance(config, dict) else {}


def _field(method: Method, key: str, value: Any) -> Finding | None:
    at = f"{PATH}.{key[:_SHOWN] if key.isidentifier() else ascii(key[:_SHOWN])}"
    if key not in method.fields:
        near = get_close_matches(key[:_SHOWN], method.accepted, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(method.accepted))}"
        return (at, "UNKNOWN_FIELD", f"PEFT's {method.config_class} has no such field; {meant}")
    not_allowed = _NOT_ALLOWED.get(key) or _RESULTS.get((method.peft_type, key))
    if not_allowed:
        return (at, "NOT_ALLOWED", f"{not_allowed}; leave it out")
    if key not in method.accepted:
        return (at, "NOT_YET_SUPPORTED", _INSTEAD.get(key, "this version does not obey it; leave it out"))
    if key == "init_lora_weights" and isinstance(value, str) and (problem := _initialisation(value)):
        return (at, "NOT_YET_SUPPORTED", problem)
    kinds = method.fields[key][0].split(" | ")
    if not any(_is(value, kind) for kind in kinds):
        reason = "UNKNOWN_VALUE" if isinstance(value, str) and any(kind[0] == "'" for kind in kinds) else "WRONG_TYPE"
        return (at, reason, f"must be {' or '.join(_WORDS.get(kind, kind) for kind in kinds)}")
    content = _content(key, value)
    return (at, *content) if content else (_eva(at, value) if key == "eva_config" else None)


def _initialisation(value: str) -> str | None:
    if value.startswith("pissa_niter_"):
        return "an approximate PiSSA cannot be published exactly; ask for pissa, which is exact"
    if value in _READY or (
        f"'{value}'" not in METHODS["lora"].fields["init_lora_weights"][0] and value not in _NOT_READY
    ):
        return None
    return f"{value} {_NOT_READY.get(value, 'is not done by this version')}; there are {', '.join(_READY)}"


def _is(value: Any, kind: str) -> bool:
    """Whether a JSON value is what PEFT's table calls so."""
    if kind.startswith("list["):
        return type(value) is list and all(_is(item, kind[5:-1]) for item in value)
    if kind in _TYPES:
        return type(value) in _TYPES[kind] and value != ""
    return isinstance(value, str) and kind == f"'{value}'"


def _eva(at: str, value: Mapping[str, Any]) -> Finding | None:
    """What is wrong with `eva_config`."""
    for name, each in value.items():
        if name not in _EVA:
            shown = name[:_SHOWN] if isinstance(name, str) and name.isidentifier() else ascii(name)[:_SHOWN]
            return (f"{at}.{shown}", "UNKNOWN_FIELD", f"there are {', '.join(sorted(_EVA))}")
        bounds = _EVA[name]
        if bounds is None and type(each) is not bool:
            return (f"{at}.{name}", "WRONG_TYPE", f"must be {_WORDS['bool']}")
        if bounds is not None:
            if type(each) not in {int, float}:
                return (f"{at}.{name}", "WRONG_TYPE", f"must be {_WORDS['float']}")
            if (problem := _bounded(each, *bounds, False)) is not None:
                return (f"{at}.{name}", *problem)
    return None


def _content(key: str, value: Any) -> tuple[str, str] | None:
    """What PEFT's types leave open."""
    if key in _BOUNDS:
        return _bounded(value, *_BOUNDS[key])
    if key in _CHOICES and value not in _CHOICES[key]:
        return ("UNKNOWN_VALUE", f"must be {' or '.join(_CHOICES[key])}")
    if key == "layers_to_transform":
        numbers = value if isinstance(value, list) else [value]
        return None if all(number >= 0 for number in numbers) else ("OUT_OF_RANGE", "must be from 0")
    if key in {"rank_pattern", "alpha_pattern"}:
        return _pattern(key, value)
    wrong = key == "exclude_modules" and isinstance(value, str) and not _compiles(value)
    return ("MALFORMED", "must be a regular expression, or a list of module names") if wrong else None


def _bounded(value: float, low: float, high: float, ends_out: bool) -> tuple[str, str] | None:  # noqa: FBT001
    if (low < value < high) if ends_out else (low <= value <= high):
        return None
    return (
        "OUT_OF_RANGE",
        f"must be between {low:g} and {high:g}" if ends_out else f"must be from {low:g} to {high:g}",
    )


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
    method = custom.get("method", "lora")
    if method in {"lora", "qlora", "dora"}:
        yield from _of_lora(method, custom, config)
    elif method == "adalora":
        if (begun := config.get("init_r")) is not None and begun < (custom.get("rank") or 16):
            yield "init_r", "is the rank before some of it is taken away, so must not be below customization.rank"
    elif method == "prompt_tuning":
        text = config.get("prompt_tuning_init") == "TEXT"
        if text != ("prompt_tuning_init_text" in config):
            yield "prompt_tuning_init_text", "goes with prompt_tuning_init `TEXT`, and that with it"
    elif method == "prefix_tuning":
        if "encoder_hidden_size" in config and not config.get("prefix_projection"):
            yield "encoder_hidden_size", "is the projection's: say prefix_projection true, too"
    else:
        yield from _of_sizes(config)


def _of_sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A rotation's blocks are told by their size or by their number, never by both."""
    for size, number in (("oft_block_size", "r"), ("boft_block_size", "boft_block_num")):
        if config.get(size) and config.get(number):
            yield size, f"says with {number} the same in two ways: leave one of them out"
        elif config.get(size) == 0 and not config.get(number):
            yield size, f"is 0 only where {number} says how many blocks there are"


def _of_eva(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if config.get("init_lora_weights") != "eva":
        if config.get("eva_config") is not None:
            yield "eva_config", "goes with init_lora_weights `eva`"
        return
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            yield name, "is what init_lora_weights `eva` finds out: leave one of them out"


def _of_lora(method: str, custom: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("bias", "modules_to_save"):
        if config.get(name) not in (None, "none", []) and custom.get("precision", "bf16") != "fp32":
            # Half precision loses most of a step (docs/trainer-contract.md): the adapter alone is kept in fp32.
            yield name, "trains weights of the base model, which only customization.precision `fp32` does without loss"
    if config.get("lora_bias") and (config.get("use_dora") or isinstance(config.get("init_lora_weights"), str)):
        yield "lora_bias", "goes with neither use_dora nor another init_lora_weights than true: leave one of them out"
    yield from _of_eva(config)
    if config.get("init_lora_weights") in MOVES_BASE:
        if method == "qlora":
            yield "init_lora_weights", "changes the base weights, which method `qlora` has quantized: use `lora`"
        if method == "dora":
            yield "init_lora_weights", "is published as plain LoRA, which cannot hold DoRA's magnitudes: use `lora`"
        patterned = config.get("rank_pattern") or config.get("alpha_pattern")
        for name in ("use_dora", "bias", "modules_to_save", *(["use_rslora"] if patterned else [])):
            if config.get(name) not in (None, False, "none", []):
                yield name, "an adapter that began as PiSSA or OLoRA is published as plain LoRA, which cannot hold this"
