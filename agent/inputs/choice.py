"""Which of a repository's files make a model that may be loaded: configuration, tokenizer, safetensors. Pure.

Everything else stays where it is: pickled weights can run code, and code is never asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.inputs.failures import DATASET_NOT_FOUND, MODEL_FORMAT_UNSUPPORTED, InputError

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

_FORMATS = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "csv": (".csv",),
    "text": (".txt",),
}
"""How data files end, by format; of several formats the first here is taken."""
_SPLIT_WORDS = {"train": ("train", "training"), "eval": ("validation", "valid", "val", "dev", "eval", "test")}
"""What stands in the names of a split's files, by the hub's convention; the first that is there."""
_NO_DATA = frozenset({"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"})


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


def dataset_files(name: str, there: Iterable[str], *, split: str, form: str, field: str) -> list[str]:
    """The data files of one split of a dataset's repository: all of one format, in one directory, in order.

    A file belongs to the split that a word of its path says. Where no path says any, all files are of split train.

    Args:
        name: the repository's, for the message.
        there: every file of it.
        split: `train` or `eval`.
        form: the format wanted; empty: the first of Parquet, JSON lines, JSON, CSV and text that there is.
        field: the spec's field to blame.

    Raises:
        InputError: DATASET_NOT_FOUND: there is none, or it cannot be told which are meant.
    """
    names = [file for file in sorted(set(there)) if file.rpartition("/")[2] not in _NO_DATA and not _hidden(file)]
    wanted = {form: _FORMATS[form]} if form else _FORMATS
    data = [file for file in names for endings in wanted.values() if file.lower().endswith(endings)]
    if not data:
        endings_said = ", ".join(ending for endings in wanted.values() for ending in endings)
        raise _not_found(field, f"{name} has no file that ends in {endings_said}, but {_shown(sorted(set(there)))}")
    chosen = _of_split(data, split)
    if not chosen and (split == "eval" or any(_of_split(data, other) for other in _SPLIT_WORDS)):
        words = ", ".join(_SPLIT_WORDS[split])
        raise _not_found(field, f"no file of {name} is of split {split} by its name ({words}), but {_shown(data)}")
    alike = [[file for file in chosen or data if file.lower().endswith(endings)] for endings in wanted.values()]
    files = next(files for files in alike if files)
    directories = sorted({file.rpartition("/")[0] or "its root" for file in files})
    if len(directories) > 1:
        raise _not_found(
            field,
            f"{name} has files of split {split} in several directories ({_shown(directories)}): give the https:// "
            "address of one file (…/resolve/…) instead",
        )
    return files


def _of_split(data: list[str], split: str) -> list[str]:
    for word in _SPLIT_WORDS[split]:
        if files := [file for file in data if re.search(rf"(?:^|[^a-z]){word}(?:[^a-z]|$)", file.lower())]:
            return files
    return []


def _hidden(file: str) -> bool:
    return any(part.startswith(".") for part in file.split("/"))


def _not_found(field: str, what: str) -> InputError:
    return InputError(DATASET_NOT_FOUND, f"{field}: {what}")


def _unsupported(field: str, what: str) -> InputError:
    return InputError(MODEL_FORMAT_UNSUPPORTED, f"{field}: {what}")


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) or "no file"
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
