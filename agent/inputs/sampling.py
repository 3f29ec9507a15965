"""The beginning of an input, without fetching it: what a preflight looks at.

From wherever a spec may name: a directory or file of this node, S3, an https address, a repository of the hub.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from agent.inputs import choice, models, stored_models
from agent.inputs.cache import Entry
from agent.inputs.datasets import blamed
from agent.inputs.failures import (
    DATASET_INVALID,
    DATASET_NOT_FOUND,
    MODEL_FORMAT_UNSUPPORTED,
    MODEL_NOT_FOUND,
    STORAGE_DENIED,
    InputError,
)
from agent.inputs.https import Beginning, Download
from agent.inputs.hub import a_dataset
from agent.inputs.models import MODEL_NAME, ModelWanted
from agent.storage import UnsupportedURIError, open_object
from agent.storage.access import Access, session_name
from trainplane.addresses import OutboundRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.inputs.fetch import FetchJob
    from agent.storage.protocol import Storage

SAMPLE_BYTES = 1 << 20
WHOLE_BYTES = 16 << 20
"""A file whose format cannot be read from its beginning alone is read whole up to here."""
_HEADER_BYTES = 100_000
"""Most safetensors headers are shorter (huggingface_hub measured 97 %); longer ones take a second question."""
_MOST_HEADER_BYTES = 32 << 20
_MOST_FILES = 64
_TOKENIZER_BYTES = 32 << 20
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_WEIGHTS = ".safetensors"
#: Of a config.json only plain values go on: no lists of words, no code, nothing long.
_LONGEST_TEXT = 64


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """A model, as far as its small files tell."""

    config: dict[str, Any]
    tensors: list[list[Any]]
    size_bytes: int
    here: bool
    """Whether this node has it."""
    tokenizer: bytes
    """`tokenizer.json`; empty: there is none, or a huge one."""
    configuration: bytes
    """`config.json`, whole; not told."""

    def facts(self) -> dict[str, Any]:
        """What is told of it."""
        return {"config": self.config, "tensors": self.tensors, "bytes": self.size_bytes, "here": self.here}


def model(job: FetchJob) -> ModelSeen:
    """Look at a job's model.

    Raises:
        InputError: it cannot be had, or is none that may be loaded.
    """
    wanted = ModelWanted.of(job.spec)
    place = wanted.weights_url or wanted.name
    if place.startswith("s3://"):
        return _in_s3(job, place.rstrip("/"), "base_model.weights_url" if wanted.weights_url else MODEL_NAME)
    if wanted.provider == "local":
        beside = in_directory(models.local_directory(wanted, job.settings))
    else:
        beside = _in_hub(job, wanted)
    return _with_weights(job, wanted, beside) if wanted.weights_url else beside


def in_directory(directory: Path) -> ModelSeen:
    """Look at a model that this node has.

    Raises:
        InputError: it is none that may be loaded, or cannot be read.
    """
    try:
        names = [path.name for path in directory.iterdir() if path.is_file()]
        chosen = choice.model_files(str(directory), names, field=MODEL_NAME)
        sizes = {name: (directory / name).stat().st_size for name in chosen}
        return _seen(sizes, lambda name, size: _first(directory / name, size), here=True)
    except OSError as error:
        raise InputError(STORAGE_DENIED, f"{MODEL_NAME}: {error.strerror or error} ({error.filename})") from error


def _in_s3(job: FetchJob, prefix: str, field: str) -> ModelSeen:
    access = job.access(field)
    there = stored_models.look(prefix, access)
    entry = there.entry(job.settings, job.project)
    sizes = {name: size for name, (size, _) in there.files.items()}
    try:
        if entry.complete.exists():
            return _seen(sizes, lambda name, size: _first(entry.directory / name, size), here=True)
        return _seen(sizes, lambda name, size: _from_storage(there.storage, name, size), here=False)
    except (OSError, UnsupportedURIError) as error:
        raise blamed(error, access, missing=MODEL_NOT_FOUND) from error


def _in_hub(job: FetchJob, wanted: ModelWanted) -> ModelSeen:
    hub = job.hub()
    snapshot = models.look(hub, wanted)
    kind = "beside" if wanted.weights_url else "model"
    entry = Entry(
        Path(job.settings.cache_dir), job.project, f"{kind}--{snapshot.name.replace('/', '--')}", snapshot.commit
    )
    sizes = {file.name: file.size_bytes for file in snapshot.files}
    if entry.complete.exists():
        return _seen(sizes, lambda name, size: _first(entry.directory / name, size), here=True)
    return _seen(sizes, lambda name, size: hub.beginning(snapshot, snapshot.file(name), size), here=False)


def _with_weights(job: FetchJob, wanted: ModelWanted, beside: ModelSeen) -> ModelSeen:
    """Configuration and tokenizer from one place, the weights by https."""
    download = _download(job, wanted.weights_url, "base_model.weights_url", missing=MODEL_NOT_FOUND)
    size = download.beginning(8).size_bytes
    tensors = _patterns(_tensors(choice.WEIGHTS, lambda _name, wanted_bytes: download.beginning(wanted_bytes).data))
    return replace(beside, tensors=tensors, size_bytes=size, here=False)


def _seen(sizes: dict[str, int], read: Callable[[str, int], bytes], *, here: bool) -> ModelSeen:
    configuration = read(choice.CONFIG, sizes[choice.CONFIG])
    config = _config(configuration)
    weights = [name for name in sizes if name.endswith(_WEIGHTS)]
    found = [tensor for name in weights for tensor in _tensors(name, read)] if len(weights) <= _MOST_FILES else []
    size = sizes.get("tokenizer.json", 0)
    tokenizer = read("tokenizer.json", size) if 0 < size <= _TOKENIZER_BYTES else b""
    return ModelSeen(config, _patterns(found), sum(sizes.values()), here, tokenizer, configuration)


def _config(content: bytes) -> dict[str, Any]:
    """Its plain values, and those of a language model within it."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(MODEL_FORMAT_UNSUPPORTED, f"{MODEL_NAME}: its config.json is not JSON") from error
    if not isinstance(told, dict):
        raise InputError(MODEL_FORMAT_UNSUPPORTED, f"{MODEL_NAME}: its config.json is no JSON object")
    plain = _plain(told)
    nested = told.get("text_config")
    return {**plain, "text_config": _plain(nested)} if isinstance(nested, dict) else plain


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {
        str(name): value
        for name, value in config.items()
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)
    }


def _tensors(name: str, read: Callable[[str, int], bytes]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """The names and shapes in the header of a safetensors file."""
    first = read(name, _HEADER_BYTES)
    broken = InputError(MODEL_FORMAT_UNSUPPORTED, f"{MODEL_NAME}: {name} is no safetensors file")
    if len(first) < 8:
        raise broken
    (length,) = struct.unpack("<Q", first[:8])
    if length > _MOST_HEADER_BYTES:
        raise broken
    content = first if len(first) >= 8 + length else read(name, 8 + length)
    try:
        header = json.loads(content[8 : 8 + length])
        return [(key, tuple(each["shape"])) for key, each in header.items() if key != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise broken from error


def _patterns(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> list[list[Any]]:
    """Counted by name, the numbers of blocks aside: as many lines for a hundred blocks as for one."""
    counted = Counter((_NUMBER.sub("*", name), shape) for name, shape in tensors)
    return [[pattern, list(shape), count] for (pattern, shape), count in counted.items()]


def dataset(job: FetchJob, index: int) -> Beginning:
    """The beginning of a job's dataset; of a repository's files, of the first.

    Raises:
        InputError: it is not there, or not allowed.
    """
    wanted = job.spec["datasets"][index]
    source, field = str(wanted["source"]), f"datasets[{index}].source"
    form = str(wanted.get("format") or "")
    if source.startswith("hf:"):
        return _of_hub(job, index, source, field)
    size = WHOLE_BYTES if form in {"json", "parquet"} else SAMPLE_BYTES
    if source.startswith("https://"):
        return _download(job, source, field, missing=DATASET_NOT_FOUND).beginning(size)
    if source.startswith("file://"):
        return _of_file(Path(unquote(source.removeprefix("file://"))), field, size)
    role = (wanted.get("auth") or {}).get("role_arn")
    access = Access(session_name=session_name(job.job_id), role_arn=role, field=field, settings=job.storage)
    try:
        storage, name = open_object(source, access)
        return Beginning(_from_storage(storage, name, size), storage.size(name), name)
    except (OSError, UnsupportedURIError) as error:
        raise blamed(error, access, missing=DATASET_NOT_FOUND) from error


def _of_file(path: Path, field: str, size: int) -> Beginning:
    try:
        return Beginning(_first(path, size), path.stat().st_size, path.name)
    except FileNotFoundError as error:
        raise InputError(DATASET_INVALID, f"{field}: there is no file {path} on this node") from error
    except IsADirectoryError as error:
        raise InputError(DATASET_INVALID, f"{field}: {path} is a directory; name a file in it") from error
    except OSError as error:
        raise InputError(STORAGE_DENIED, f"{field}: {path} cannot be read: {error.strerror or error}") from error


def _of_hub(job: FetchJob, index: int, source: str, field: str) -> Beginning:
    wanted = job.spec["datasets"][index]
    name, _, revision = source.removeprefix("hf:").partition("@")
    hub = replace(job.hub(), subject=a_dataset(field))
    there = hub.snapshot(name, revision or "main")
    files = choice.dataset_files(
        name,
        [file.name for file in there.files],
        split=wanted.get("split", "train"),
        form=wanted.get("format", ""),
        field=field,
    )
    first = there.file(files[0])
    size = SAMPLE_BYTES if first.name.endswith((".jsonl", ".ndjson", ".csv", ".txt")) else WHOLE_BYTES
    total = sum(there.file(each).size_bytes for each in files)
    return Beginning(hub.beginning(there, first, size), total, first.name.rpartition("/")[2])


def _download(job: FetchJob, url: str, field: str, *, missing: str) -> Download:
    settings = job.settings
    rules = OutboundRules.of(hosts=settings.allowed_hosts, networks=settings.allowed_networks)
    return Download(url, field, settings.cache_bytes, rules, settings.ca_bundle, missing)


def _first(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(size)


def _from_storage(storage: Storage, name: str, size: int) -> bytes:
    found = bytearray()
    pieces = storage.read(name)
    with closing(pieces):  # type: ignore[type-var]  # both storages' are generators
        for piece in pieces:
            found += piece
            if len(found) >= size:
                break
    return bytes(found[:size])
