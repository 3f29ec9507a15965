"""A base model's directory, looked at before torch is imported. No code of it is run, and no pickle read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import file_digest
from typing import TYPE_CHECKING, Any

from trainplane_bare.failure import Failure

if TYPE_CHECKING:
    from pathlib import Path

FIELD = "base_model.model_name"
ARCHITECTURES = ("llama", "qwen2")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What of the directory is used."""

    config: dict[str, Any]
    weights: tuple[Path, ...]
    tokenizer: Path

    @property
    def end(self) -> int | None:
        """The token that ends a text."""
        found = self.config.get("eos_token_id")
        return found[0] if isinstance(found, list) else found

    def digests(self) -> dict[str, str]:
        """sha256 of every weights file, by name."""
        found = {}
        for path in self.weights:
            with path.open("rb") as stream:
                found[path.name] = file_digest(stream, "sha256").hexdigest()
        return found


def inspect(directory: Path, called: str) -> ModelFiles:
    """The files of a model that the loop can train.

    Raises:
        Failure: MODEL_NOT_FOUND, STORAGE_DENIED or MODEL_FORMAT_UNSUPPORTED.
    """
    try:
        names = {path.name for path in directory.iterdir()}
        config = json.loads((directory / "config.json").read_bytes()) if "config.json" in names else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Failure("MODEL_NOT_FOUND", f"{FIELD}: there is no directory {called} on this node") from error
    except PermissionError as error:
        raise Failure("STORAGE_DENIED", f"{FIELD}: {called} may not be read here") from error
    except ValueError as error:
        raise Failure("MODEL_FORMAT_UNSUPPORTED", f"{FIELD}: config.json of {called} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise Failure("MODEL_NOT_FOUND", f"{FIELD}: there is no config.json in {called}")
    if unfit := _unfit(config, names):
        raise Failure("MODEL_FORMAT_UNSUPPORTED", f"{FIELD}: {called} {unfit}; use backend peft, or another model")
    weights = sorted(name for name in names if name.startswith("model") and name.endswith(".safetensors"))
    return ModelFiles(config, tuple(directory / name for name in weights), directory / "tokenizer.json")


def _unfit(config: dict[str, Any], names: set[str]) -> str:
    """Why the loop cannot train it, in words that go on after the model's name; empty: it can."""
    kind = config.get("model_type")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    turns = rope.get("rope_type", rope.get("type", "default"))
    weights = any(name.startswith("model") and name.endswith(".safetensors") for name in names)
    activation = config.get("hidden_act", "silu")
    problems = {
        f"is a {kind}; backend bare knows {' and '.join(ARCHITECTURES)}": kind not in ARCHITECTURES,
        "is quantized": bool(config.get("quantization_config")),
        "asks to run code of its own (auto_map)": bool(config.get("auto_map")),
        f"has the activation {activation}, which backend bare does not compute": activation != "silu",
        "has a sliding window, which backend bare does not compute": bool(config.get("use_sliding_window")),
        f"has rotary positions of type {turns}": turns not in ("default", "llama3"),
        "has no model*.safetensors (pickled weights can run code and are never loaded)": not weights,
        "has no tokenizer.json": "tokenizer.json" not in names,
    }
    return next((words for words, so in problems.items() if so), "")
