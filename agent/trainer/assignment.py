"""What to train: `assignment.json`, parsed once into frozen dataclasses, one for each part of the training.

The control plane has validated the spec and filled in every default. What is checked here again is what this
trainer depends on: it runs other people's jobs, and a value that it does not support is refused, never ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import ConfigInvalid, NotYetSupported
from agent.trainer.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ALL_LINEAR = "all-linear"
SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True, slots=True)
class Lora:
    """`customization` of method `lora`: PEFT's `LoraConfig` in the spec's words."""

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    """Module names, or `("all-linear",)`: every linear layer but the output head."""


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """One of `datasets[]`."""

    index: int
    source: str
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field's name -> the name it has in the file."""

    @property
    def path(self) -> str:
        """Where the spec names it, for messages."""
        return f"datasets[{self.index}]"


@dataclass(frozen=True, slots=True)
class Tuning:
    """`tuning_parameters`. `batch_size` is the effective batch: examples per optimizer step."""

    learning_rate: float = 2e-4
    batch_size: int = 8
    num_epochs: float = 1.0
    max_steps: int | None = None
    """Optimizer steps; when set, it alone says how long to train, and `num_epochs` does not."""
    warmup_ratio: float = 0.0
    lr_scheduler: str = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """0 = no clipping."""
    seed: int = 0
    gradient_checkpointing: bool = False
    max_sequence_length: int = 2048
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt of one job. `spec` is the effective spec as it came, for the provenance; no secret is in it."""

    uid: str
    job_id: str
    attempt: int
    devices: tuple[str, ...]
    model_name: str
    """Directory of the base model."""
    precision: str
    lora: Lora
    datasets: tuple[DatasetSource, ...]
    tuning: Tuning
    spec: Mapping[str, Any]


def read_document(attempt_directory: Path) -> dict[str, Any]:
    """`assignment.json` as it is.

    Raises:
        ConfigInvalid: it is missing or not a JSON object.
    """
    try:
        document = json.loads((attempt_directory / "assignment.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"assignment.json cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigInvalid("assignment.json is not a JSON object")
    return document


def deadline_seconds(document: Mapping[str, Any]) -> float | None:
    """How long the trainer may run; read before the rest, so that the deadline holds for that too."""
    return Fields(document, "").optional_number("deadline_seconds")


def parse(document: Mapping[str, Any]) -> Assignment:
    """The whole assignment, checked.

    Raises:
        ConfigInvalid: a value has the wrong type, or is impossible.
        NotYetSupported: a value that this trainer does not know how to obey.
    """
    top = Fields(document, "")
    spec = top.block("spec")
    customization = spec.block("customization")
    devices = tuple(str(device) for device in top.items("devices"))
    if len(devices) > 1:
        raise NotYetSupported(f"resources.gpus: training on {len(devices)} devices is not supported yet; ask for 1")
    return Assignment(
        uid=top.text("uid", ""),
        job_id=top.text("job_id", ""),
        attempt=top.integer("attempt", 1),
        devices=devices,
        model_name=_model_name(spec.block("base_model")),
        precision=customization.choice("precision", "bf16", allowed=PRECISIONS, known=("fp16",)),
        lora=_lora(customization),
        datasets=_datasets(spec),
        tuning=_tuning(spec.block("tuning_parameters")),
        spec=spec.values,
    )


def _model_name(model: Fields) -> str:
    model.choice("provider", "local", allowed=("local",), known=("huggingface", "s3"))
    model.refuse("weights_url")
    return model.text("model_name")


def _lora(customization: Fields) -> Lora:
    customization.choice("method", "lora", allowed=("lora",), known=None)
    customization.refuse("trainable_layers")
    peft = customization.block("peft")
    if not peft.boolean("use", default=True):
        raise ConfigInvalid("customization.peft.use: false contradicts the method lora")
    config = peft.block("config")
    for name in config.values:
        if name != "task_type":
            raise NotYetSupported(f"customization.peft.config.{name} is not supported yet; leave it out")
    config.choice("task_type", "CAUSAL_LM", allowed=("CAUSAL_LM",), known=None)
    rank = customization.integer("rank", 16, minimum=1)
    return Lora(
        rank=rank,
        alpha=customization.number("lora_alpha", 2 * rank, above=0.0),
        dropout=customization.number("lora_dropout", 0.0, minimum=0.0, below=1.0),
        target_modules=tuple(customization.texts("target_modules")) or (ALL_LINEAR,),
    )


def _datasets(spec: Fields) -> tuple[DatasetSource, ...]:
    blocks = spec.blocks("datasets")
    if not blocks:
        raise ConfigInvalid("datasets: at least one is needed")
    datasets = tuple(_dataset(index, block) for index, block in enumerate(blocks))
    if all(dataset.split == "eval" for dataset in datasets):
        raise ConfigInvalid("datasets: none has split train")
    return datasets


def _dataset(index: int, block: Fields) -> DatasetSource:
    block.choice("format", "jsonl", allowed=("jsonl",), known=("json", "csv", "parquet", "text"))
    if block.number("weight", 1.0) != 1.0:
        raise NotYetSupported(f"{block.path}.weight: sampling by weight is not supported yet; leave it out or set 1")
    if block.block("auth").values.get("role_arn"):
        raise NotYetSupported(f"{block.path}.auth.role_arn is not supported yet for a file:// source")
    columns = block.block("columns").values
    if not all(isinstance(name, str) for name in columns.values()):
        raise ConfigInvalid(f"{block.path}.columns: every value must be the name of a field in the file")
    return DatasetSource(
        index=index,
        source=block.text("source"),
        split=block.choice("split", "train", allowed=("train", "eval"), known=None),
        columns=dict(columns),
    )


def _tuning(tuning: Fields) -> Tuning:
    tuning.choice("optimizer", "adamw", allowed=("adamw", "adamw_torch"), known=None)
    for name in ("packing", "eval_fraction", "checkpoint_steps", "neftune_noise_alpha"):
        tuning.refuse(name)
    return Tuning(
        learning_rate=tuning.number("learning_rate", 2e-4, above=0.0),
        batch_size=tuning.integer("batch_size", 8, minimum=1),
        num_epochs=tuning.number("num_epochs", 1.0, above=0.0),
        max_steps=tuning.optional_integer("max_steps", minimum=1),
        warmup_ratio=tuning.number("warmup_ratio", 0.0, minimum=0.0, maximum=1.0),
        lr_scheduler=tuning.choice("lr_scheduler", "linear", allowed=SCHEDULES, known=None),
        weight_decay=tuning.number("weight_decay", 0.0, minimum=0.0),
        max_grad_norm=tuning.number("max_grad_norm", 1.0, minimum=0.0),
        seed=tuning.integer("seed", 0),
        gradient_checkpointing=tuning.boolean("gradient_checkpointing", default=False),
        max_sequence_length=tuning.integer("max_sequence_length", 2048, minimum=2),
        chat_template=tuning.optional_text("chat_template"),
    )
