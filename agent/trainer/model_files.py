"""Looks at a model's directory before anything of it is loaded, and refuses what is not safe or cannot work.

A model is a customer's upload. What runs code (pickled weights, `auto_map`, kernels by name), or loads something else
than it says (an adapter's config beside the model's makes transformers follow it to another path, an index of shards
may name files of another model), is refused by its files alone: no torch, within milliseconds.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent.inputs import choice
from agent.trainer.failures import ConfigInvalid, ModelFormatUnsupported, ModelNotFound, NotYetSupported, StorageDenied
from agent.trainer.pulse import PULSE
from agent.trainer.weight_files import require_whole
from trainplane.backends import gguf_support

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HASH_BLOCK_BYTES = 8 << 20
_ATTENTION = ("eager", "sdpa")
"""What computes attention without code from elsewhere."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory that may be loaded, and its parsed `config.json`."""

    directory: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]


def inspect_model(path: str, *, called: str = "") -> ModelFiles:
    """Check the files of a base model on this node.

    Args:
        path: its directory.
        called: the model's name in messages, if that is not the path.

    Raises:
        ModelNotFound: no such directory, or no model in it.
        ModelFormatUnsupported: its weights are not safetensors or not whole, it asks for remote code, or is an adapter.
        NotYetSupported: it is quantized.
        StorageDenied: it may not be read.
    """
    directory, model_name = Path(path), called or path
    if not directory.is_absolute():
        raise ModelNotFound(f"base_model.model_name: a local model is an absolute path, got {model_name}")
    try:
        if not directory.is_dir():
            raise ModelNotFound(f"base_model.model_name: there is no directory {model_name} on this node")
        names = sorted(path.name for path in directory.iterdir())
        config = _json_object(directory / "config.json") if "config.json" in names else None
        tokenizer_config = _json_object(directory / "tokenizer_config.json") if "tokenizer_config.json" in names else {}
    except PermissionError as error:
        raise StorageDenied(f"base_model.model_name: {error.filename} may not be read by the trainer's user") from error
    if "adapter_config.json" in names:
        raise ModelFormatUnsupported(
            f"base_model.model_name: {model_name} holds an adapter (adapter_config.json); name its base model instead"
        )
    if config is None:
        raise ModelNotFound(f"base_model.model_name: there is no config.json in {model_name}; it has {_listed(names)}")
    _refuse_remote_code(model_name, config, tokenizer_config)
    if config.get("quantization_config"):
        raise NotYetSupported("base_model.model_name: the model is quantized; name its full-precision weights")
    weights = _weights(directory, names, model_name)
    try:
        tensors = require_whole(directory, weights)
    except PermissionError as error:
        raise StorageDenied(f"base_model.model_name: {error.filename} may not be read by the trainer's user") from error
    _refuse_too_many_layers(config, tensors)
    return ModelFiles(directory, config, weights)


def require_gguf(files: ModelFiles) -> None:
    """Refuse a model that cannot be written as GGUF. Needs no torch.

    Raises:
        ConfigInvalid: says why.
    """
    problem = gguf_support.model_problem(files.config)
    if not problem:
        try:
            tokenizer = json.loads((files.directory / "tokenizer.json").read_bytes())
        except FileNotFoundError:
            tokenizer = {}
        problem = gguf_support.tokenizer_problem(tokenizer)
    if problem:
        raise ConfigInvalid(f"export.gguf: {problem}; leave it out, and use export.merged")


def _weights(directory: Path, names: list[str], model_name: str) -> tuple[Path, ...]:
    weights = tuple(directory / name for name in names if name.startswith("model") and name.endswith(".safetensors"))
    for path in weights:
        if not path.is_file():
            raise ModelFormatUnsupported(
                f"base_model.model_name: {path.name} is no file (a link to nothing, or a directory); fetch the model "
                "anew"
            )
    if weights:
        return weights
    pickled = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickled:
        raise ModelFormatUnsupported(
            f"base_model.model_name: {model_name} has no model*.safetensors, only {_listed(pickled)}; pickled weights "
            "can run code and are never loaded. Convert the model to safetensors (save_pretrained does)"
        )
    raise ModelFormatUnsupported(
        f"base_model.model_name: {model_name} has no model*.safetensors; it has {_listed(names)}"
    )


def _refuse_remote_code(model_name: str, *configs: dict[str, Any]) -> None:
    for config in configs:
        if config.get("auto_map"):
            raise ModelFormatUnsupported(
                f"base_model.model_name: {model_name} asks to run code of its own (auto_map), which is never done; use "
                "a model whose architecture transformers knows"
            )
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
                asked = part.get(key)
                if asked is not None and asked not in _ATTENTION:
                    raise ModelFormatUnsupported(
                        f"base_model.model_name: the config.json of {model_name} asks for code from elsewhere ({key}: "
                        f"{str(asked)[:80]}), which is never loaded; remove that key"
                    )


def _refuse_too_many_layers(config: dict[str, Any], tensors: int) -> None:
    """Modules are made for each layer before its weights are missed."""
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > tensors:
        raise ModelFormatUnsupported(
            f"base_model.model_name: its config.json names {layers} layers (num_hidden_layers), and there are "
            f"{tensors} tensors in its weights"
        )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFormatUnsupported(f"base_model.model_name: {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFormatUnsupported(f"base_model.model_name: {path} is not a JSON object")
    return value


def _listed(names: list[str], *, most: int = 8) -> str:
    shown = ", ".join(names[:most]) or "no files"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


class BackgroundDigests:
    """Hashes a model's files on a thread of its own: hashlib leaves the interpreter to the training meanwhile."""

    def __init__(self, files: ModelFiles) -> None:
        self._found: dict[str, str] = {}
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(files,), name="digests", daemon=True)
        self._thread.start()

    def _run(self, files: ModelFiles) -> None:
        try:
            self._found = digests(files)
        except OSError as error:
            self._error = error

    def result(self) -> dict[str, str]:
        """Wait for them. Raises the OSError that reading a file gave."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found


def digests(files: ModelFiles) -> dict[str, str]:
    """sha256 in hex of configuration, tokenizer and weights, by file. Reads them all: a second or so per GB."""
    here = [path.name for path in files.directory.iterdir() if path.is_file()]
    beside = (files.directory / name for name in choice.beside(files.directory.name, here, field="base_model"))
    return {path.name: _sha256(path) for path in (*beside, *files.weights)}


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
            PULSE.beat()
    return digest.hexdigest()
