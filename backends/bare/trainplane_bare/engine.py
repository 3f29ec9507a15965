"""What the platform sees of the engine: the judge of a spec, and the command line. Standard library only.

What the loop obeys is listed, and all else refused: a field that the platform learns later is then not ignored.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Finding = tuple[str, str, str]

MICRO_BATCH_SIZE = 8
_MOST_EXAMPLES = 65536
_ELSEWHERE = "use backend peft"

_CUSTOMIZATION = {
    *("method", "rank", "lora_alpha", "lora_dropout", "target_modules", "trainable_layers", "precision", "peft"),
}
_TUNING = {
    *("learning_rate", "batch_size", "num_epochs", "max_steps", "warmup_ratio", "lr_scheduler", "weight_decay"),
    *("optimizer", "max_grad_norm", "seed", "max_sequence_length", "gradient_checkpointing"),
    *("checkpoint_steps", "checkpoint_limit"),
}
_DATASET = {"source", "format", "auth", "split", "columns"}
#: Of PEFT's LoraConfig: those that say again what has a field of its own, which the platform compares.
_PEFT_CONFIG = {"task_type", "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules"}
_CHOICES = {
    "customization.method": ("lora",),
    "customization.precision": ("bf16", "fp32"),
    "tuning_parameters.optimizer": ("adamw",),
    "tuning_parameters.lr_scheduler": ("linear", "cosine", "constant"),
}
_SUFFIXES = {".csv", ".parquet", ".txt", ".md"}


class Bare:
    """The engine, as docs/backends.md of trainplane describes one."""

    name = "bare"
    description = "LoRA for Llama- and Qwen2-style models on one device, by a plain PyTorch loop."

    def schema(self) -> dict[str, Any]:
        """How many examples are computed in one pass."""
        size = {"type": "integer", "minimum": 1, "maximum": _MOST_EXAMPLES, "default": MICRO_BATCH_SIZE}
        return {"type": "object", "additionalProperties": False, "properties": {"micro_batch_size": size}}

    def validate(self, effective_spec: dict[str, Any]) -> list[Finding]:
        """Everything that the loop would not obey."""
        customization = effective_spec.get("customization", {})
        tuning = effective_spec.get("tuning_parameters", {})
        return [
            *_not_listed("customization", customization, _CUSTOMIZATION),
            *_not_listed("tuning_parameters", tuning, _TUNING),
            *_not_listed("export", effective_spec.get("export", {}), set()),
            *_not_chosen({"customization": customization, "tuning_parameters": tuning}),
            *_peft(customization.get("peft", {})),
            *_devices(effective_spec.get("resources", {})),
            *(
                finding
                for index, each in enumerate(effective_spec.get("datasets", ()))
                for finding in _rows(index, each)
            ),
            *_options(effective_spec.get("backend_options", {})),
        ]

    def command(self, python: str, attempt_dir: str) -> list[str]:
        """Start the loop; it reads `assignment.json` in the directory."""
        return [python, "-m", "trainplane_bare", attempt_dir]


def _not_listed(block: str, given: Mapping[str, Any], listed: set[str]) -> Iterator[Finding]:
    for name, value in given.items():
        # What is off is not asked for.
        if name not in listed and value not in (None, False, [], {}):
            yield f"{block}.{name}", "NOT_SUPPORTED", f"backend bare does not do this; leave it out, or {_ELSEWHERE}"


def _not_chosen(spec: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for path, choices in _CHOICES.items():
        block, _, name = path.partition(".")
        value = spec[block].get(name)
        if value is not None and value not in choices:
            yield path, "NOT_SUPPORTED", f"backend bare knows {', '.join(choices)}; choose one, or {_ELSEWHERE}"


def _peft(peft: Mapping[str, Any]) -> Iterator[Finding]:
    for name in peft.get("config") or {}:
        if name not in _PEFT_CONFIG:
            why = f"backend bare has a LoRA of its own, which has no such setting; leave it out, or {_ELSEWHERE}"
            yield f"customization.peft.config.{name[:60]}", "NOT_SUPPORTED", why


def _devices(resources: Mapping[str, Any]) -> Iterator[Finding]:
    if (resources.get("gpus") or 0) > 1:
        yield "resources.gpus", "NOT_SUPPORTED", f"backend bare trains on one device; ask for 0 or 1, or {_ELSEWHERE}"


def _rows(index: int, dataset: Mapping[str, Any]) -> Iterator[Finding]:
    at = f"datasets[{index}]"
    yield from _not_listed(at, dataset, _DATASET)
    if dataset.get("split", "train") != "train":
        yield f"{at}.split", "NOT_SUPPORTED", f"backend bare does not evaluate; leave it out, or {_ELSEWHERE}"
    said, suffix = dataset.get("format"), PurePosixPath(str(dataset.get("source", "")).partition("?")[0]).suffix.lower()
    if said not in (None, "jsonl", "json") or (said is None and suffix in _SUFFIXES):
        yield f"{at}.format", "NOT_SUPPORTED", f"backend bare reads jsonl and json; convert the file, or {_ELSEWHERE}"
    if "messages" in (dataset.get("columns") or {}):
        yield f"{at}.columns.messages", "NOT_SUPPORTED", f"backend bare trains no conversations; {_ELSEWHERE}"


def _options(options: Mapping[str, Any]) -> Iterator[Finding]:
    for name, value in options.items():
        at = f"backend_options.{name[:60]}"
        if name != "micro_batch_size":
            yield at, "UNKNOWN_FIELD", "backend bare has no such option; there is micro_batch_size"
        elif type(value) is not int:
            yield at, "WRONG_TYPE", "must be a whole number"
        elif not 1 <= value <= _MOST_EXAMPLES:
            yield at, "OUT_OF_RANGE", f"must be from 1 to {_MOST_EXAMPLES}"
