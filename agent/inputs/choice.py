"""Which of a repository's files make a model that may be loaded: configuration, tokenizer, safetensors. Pure.

Everything else stays where it is: pickled weights can run code, and code is never asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.inputs.failures import MODEL_FORMAT_UNSUPPORTED, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_INDEX = "model.safetensors.index.json"
_BESIDE = frozenset(
    {
        CONFIG,
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tekken.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHOWN = 4


def model_files(name: str, there: Iterable[str], *, sibling: str | None = None, field: str) -> list[str]:
    """The files to fetch for a whole model, in order.

    Args:
        name: the model's, for the message.
        there: every file of the repository.
        sibling: a repository that has the same model as safetensors, if one is known.
        field: the spec's field to blame.

    Raises:
        InputError: MODEL_FORMAT_UNSUPPORTED, from the list of files alone.
    """
    names = sorted(set(there))
    if "adapter_config.json" in names:
        raise _unsupported(field, f"{name} holds an adapter (adapter_config.json); name its base model instead")
    weights = [WEIGHTS] if WEIGHTS in names else [n for n in names if _SHARD.fullmatch(n)]
    if not weights:
        pickled = [n for n in names if n.endswith(_PICKLED)]
        has = f"only {_shown(pickled)}, which can run code and is never loaded" if pickled else f"but {_shown(names)}"
        remedy = f"use {sibling}, which has it" if sibling else "use a model that has been saved as safetensors"
        raise _unsupported(field, f"{name} has no model.safetensors, {has}; {remedy}")
    if len(weights) > 1 or weights != [WEIGHTS]:
        weights = [n for n in (*weights, _INDEX) if n in names]
    return sorted({*beside(name, names, field=field), *weights})


def beside(name: str, there: Iterable[str], *, field: str) -> list[str]:
    """The files to fetch beside the weights: configuration and tokenizer.

    Raises:
        InputError: MODEL_FORMAT_UNSUPPORTED: there is no configuration.
    """
    names = set(there)
    if CONFIG not in names:
        raise _unsupported(field, f"{name} has no config.json, but {_shown(sorted(names))}")
    return sorted(n for n in names if n in _BESIDE or ("/" not in n and n.endswith(".tiktoken")))


def _unsupported(field: str, what: str) -> InputError:
    return InputError(MODEL_FORMAT_UNSUPPORTED, f"{field}: {what}")


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) or "no file"
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
