"""What to train: `assignment.json`, parsed once into frozen dataclasses, one for each part of the training.

The control plane has validated the spec and filled in every default. What is checked here again is what this
trainer depends on: it runs other people's jobs, and a value that it does not support is refused, never ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.trainer import customization
from agent.trainer.data.formats import READERS
from agent.trainer.failures import ConfigInvalid
from agent.trainer.fields import Fields
from agent.trainer.inputs import FetchedDataset, FetchedModel
from agent.trainer.redaction import redacted
from agent.trainer.stopping import PATIENCE_SECONDS, Terms
from trainplane.backends import gguf_support, sharding, truncation
from trainplane.backends.peft_methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.trainer.customization import Customization
    from agent.trainer.inputs import Inputs

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """One of `datasets[]`."""

    index: int
    source: str
    split: str = "train"
    format: str = ""
    """One of `formats.READERS`; empty: as the file's suffix says."""
    weight: float | None = None
    """Share of the training examples, relative to the other datasets'; None in all: each example once an epoch."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field's name -> the name it has in the file."""
    fetched: str = ""
    """Path of what the agent fetched from the source (`FetchedDataset`); empty: the source is on this node."""
    commit: str = ""
    """The hub's commit; empty where the source knows none."""

    @property
    def path(self) -> str:
        """Where the spec names it, for messages."""
        return f"datasets[{self.index}]"


@dataclass(frozen=True, slots=True)
class Tuning:
    """`tuning_parameters`. `batch_size` is the effective batch: examples per optimizer step over all ranks."""

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
    packing: bool = False
    """Several examples in a row; `batch_size` counts examples all the same."""
    eval_fraction: float = 0.0
    """Of the training rows, held out for evaluation."""
    neftune_noise_alpha: float = 0.0
    """0 = no noise."""
    checkpoint_steps: int | None = None
    """Optimizer steps between checkpoints; None: by time."""
    checkpoint_limit: int | None = None
    """How many checkpoints are kept; None: as many as is sensible."""
    sharding: str = "auto"
    """One of `sharding.CHOICES`."""
    truncation: str = truncation.RIGHT
    """One of `truncation.CHOICES`."""


@dataclass(frozen=True, slots=True)
class Export:
    """`export`: what is made beside the adapter."""

    merged: bool = False
    """`merged/`: the base model with the adapter merged in."""
    gguf: bool = False
    """`gguf/`: the same as one GGUF file."""
    gguf_type: str = ""
    """One of `gguf_support.TYPES`; empty: the job's precision."""


@dataclass(frozen=True, slots=True)
class Gang:
    """This node's place among several that train together (docs/trainer-contract.md)."""

    node: int
    """0: the first, whose rank 0 writes what there is to write."""
    first_rank: int
    address: str
    """Where all ranks meet, on the first node."""
    port: int
    interface: str
    """The network interface that leads there; empty: the libraries choose one."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt of one job. `spec` is the effective spec as it came, for the provenance; no secret is in it."""

    uid: str
    job_id: str
    attempt: int
    devices: tuple[str, ...]
    """GPU indices, one per rank of this node; empty: all ranks are on the CPU."""
    world_size: int
    """Ranks, on all nodes."""
    model: FetchedModel
    customization: Customization
    datasets: tuple[DatasetSource, ...]
    tuning: Tuning
    export: Export
    spec: Mapping[str, Any]
    resume_from: str = ""
    """Directory of an earlier attempt's checkpoints; empty: there are none."""
    gang: Gang | None = None
    """None: all ranks are on this node."""


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


def terms(document: Mapping[str, Any], attempt_directory: Path) -> Terms:
    """When, and how, the trainer is ended early; read before the rest, so that the deadline holds for that too."""
    top = Fields(document, "")
    return Terms(
        str(attempt_directory),
        top.optional_number("deadline_seconds"),
        top.number("checkpoint_grace_seconds", PATIENCE_SECONDS, minimum=0),
        top.block("spec").block("artifacts").text("output_uri", ""),
        top.text("uid", ""),
    )


def world_size(document: Mapping[str, Any]) -> int:
    """How many ranks train, on all nodes; an assignment of before there were several has one per device."""
    top = Fields(document, "")
    return top.integer("world_size", max(1, len(top.items("devices"))), minimum=1)


def ranks_here(document: Mapping[str, Any]) -> range:
    """The numbers of the ranks on this node: every node of a gang has as many."""
    gang = Fields(document, "").block("gang")
    count = world_size(document) // gang.integer("nodes", 1, minimum=1)
    first = gang.integer("first_rank", 0, minimum=0)
    return range(first, first + count)


def quantizes(document: Mapping[str, Any]) -> bool:
    """Whether the base model will be quantized; read before the rest, since it decides what is imported."""
    return Fields(document, "").block("spec").block("customization").text("method", "lora") == "qlora"


def parse(document: Mapping[str, Any], inputs: Inputs | None = None) -> Assignment:
    """The whole assignment, checked.

    Args:
        document: `assignment.json`.
        inputs: what the agent fetched; None: everything is on this node.

    Raises:
        ConfigInvalid: a value has the wrong type, or is impossible.
        NotYetSupported: a value that this trainer does not know how to obey.
        PrecisionUnsupported: the device cannot compute in the precision.
    """
    top = Fields(document, "")
    spec = top.block("spec")
    devices = tuple(str(device) for device in top.items("devices"))
    ranks = world_size(document)
    here = len(ranks_here(document))
    if devices and len(devices) != here:
        raise ConfigInvalid(f"world_size: {here} ranks cannot share {len(devices)} devices: one each")
    tuning = _tuning(spec.block("tuning_parameters"))
    if tuning.batch_size % ranks:
        raise ConfigInvalid(
            f"tuning_parameters.batch_size: counts examples over all devices, so must be a multiple of {ranks}, "
            f"got {tuning.batch_size}"
        )
    return Assignment(
        uid=top.text("uid", ""),
        job_id=top.text("job_id", ""),
        attempt=top.integer("attempt", 1),
        devices=devices,
        world_size=ranks,
        model=inputs.model if inputs else _local_model(spec.block("base_model")),
        customization=customization.read(spec.block("customization"), on_gpu=bool(devices)),
        datasets=_datasets(spec, inputs),
        tuning=tuning,
        export=_export(spec.block("export"), spec.block("customization").text("method", "lora")),
        spec=spec.values,
        resume_from=top.text("resume_from", ""),
        gang=_gang(top.block("gang")) if document.get("gang") else None,
    )


def _gang(gang: Fields) -> Gang:
    return Gang(
        node=gang.integer("node", 0, minimum=0),
        first_rank=gang.integer("first_rank", 0, minimum=0),
        address=gang.text("address", ""),
        port=gang.integer("port", 0, minimum=1),
        interface=gang.text("interface", ""),
    )


def _local_model(model: Fields) -> FetchedModel:
    model.choice("provider", "local", allowed=("local",), known=("huggingface", "s3"))
    model.refuse("weights_url")
    path = model.text("model_name")
    return FetchedModel(path=path, name=path, commit="")


def _datasets(spec: Fields, inputs: Inputs | None) -> tuple[DatasetSource, ...]:
    blocks = spec.blocks("datasets")
    if not blocks:
        raise ConfigInvalid("datasets: at least one is needed")
    paths = inputs.datasets if inputs else (FetchedDataset(""),) * len(blocks)
    if len(paths) != len(blocks):
        raise ConfigInvalid(f"inputs.json: datasets has {len(paths)} paths for the spec's {len(blocks)} datasets")
    datasets = tuple(
        _dataset(index, block, path) for index, (block, path) in enumerate(zip(blocks, paths, strict=True))
    )
    if all(dataset.split == "eval" for dataset in datasets):
        raise ConfigInvalid("datasets: none has split train")
    fraction = spec.block("tuning_parameters").values.get("eval_fraction")
    if fraction and any(dataset.split == "eval" for dataset in datasets):
        raise ConfigInvalid("tuning_parameters.eval_fraction: a dataset has split eval already; leave one of them out")
    return datasets


def _dataset(index: int, block: Fields, fetched: FetchedDataset) -> DatasetSource:
    columns = block.block("columns").values
    if not all(isinstance(name, str) for name in columns.values()):
        raise ConfigInvalid(f"{block.path}.columns: every value must be the name of a field in the file")
    return DatasetSource(
        index=index,
        source=redacted(block.text("source")),  # what an https one opens is the agent's business, who has fetched it
        split=block.choice("split", "train", allowed=("train", "eval"), known=None),
        format=block.choice("format", "jsonl", allowed=tuple(READERS), known=()) if block.values.get("format") else "",
        weight=block.number("weight", above=0.0) if block.values.get("weight") is not None else None,
        columns=dict(columns),
        fetched=fetched.path,
        commit=fetched.commit,
    )


def _export(block: Fields, method: str) -> Export:
    export = Export(
        merged=block.boolean("merged", default=False),
        gguf=block.boolean("gguf", default=False),
        gguf_type=block.choice("gguf_type", "", allowed=("", *gguf_support.TYPES), known=()),
    )
    kind = METHODS.get(method)
    if kind is not None and kind.prompt and (export.merged or export.gguf):
        raise ConfigInvalid(f"export: method `{method}` trains a prompt, and no weights that could be merged")
    if method == "full" and export.merged:
        raise ConfigInvalid("export.merged: method `full` publishes the whole model already; leave it out")
    return export


def _tuning(tuning: Fields) -> Tuning:
    tuning.choice("optimizer", "adamw", allowed=("adamw", "adamw_torch"), known=None)
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
        packing=tuning.boolean("packing", default=False),
        eval_fraction=tuning.number("eval_fraction", 0.0, minimum=0.0, below=1.0),
        checkpoint_steps=tuning.optional_integer("checkpoint_steps", minimum=1),
        checkpoint_limit=tuning.optional_integer("checkpoint_limit", minimum=1),
        neftune_noise_alpha=tuning.number("neftune_noise_alpha", 0.0, minimum=0.0),
        sharding=tuning.choice("sharding", "auto", allowed=sharding.CHOICES, known=()),
        truncation=tuning.choice("truncation", truncation.RIGHT, allowed=truncation.CHOICES, known=()),
    )
