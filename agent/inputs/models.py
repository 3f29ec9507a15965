"""A job's base model onto this node: from the hub through the node's cache, from S3, or its weights by https.

The hub is asked first, every time, with the job's own token: what the cache holds is given only to who may have it.
"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.inputs import choice
from agent.inputs.cache import Entry, ModelCache
from agent.inputs.failures import (
    CONFIG_INVALID,
    MODEL_FORMAT_UNSUPPORTED,
    MODEL_NOT_FOUND,
    STORAGE_DENIED,
    InputError,
)
from agent.inputs.hub import Hub, RemoteFile, Snapshot, is_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from agent.inputs.settings import InputSettings

MODEL_NAME = "base_model.model_name"
TOKEN = "base_model.auth_token"  # noqa: S105  # a path in the spec
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Model:
    """A model on this node, as `inputs.json` says it. `commit` is empty where the source knows none."""

    path: Path
    name: str
    commit: str


@dataclass(frozen=True, slots=True)
class ModelWanted:
    """`base_model` of a spec."""

    provider: str
    name: str
    revision: str
    weights_url: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> ModelWanted:
        """Read it from an effective spec."""
        model = spec["base_model"]
        return cls(
            provider=str(model.get("provider", "huggingface")),
            name=str(model["model_name"]),
            revision=str(model.get("revision") or "main"),
            weights_url=str(model.get("weights_url") or ""),
        )


def open_hub(settings: InputSettings, secrets: Mapping[str, str], *, own_token: str = "") -> Hub:
    """The hub as the job sees it: with its own token, else the platform's, else the agent's own.

    Raises:
        InputError: the platform's token cannot be read.
    """
    token = secrets.get(TOKEN) or _platform_token(settings) or own_token or None
    return Hub(settings.hub_endpoint, token, Path(settings.cache_dir) / ".hub", settings.ca_bundle)


def look(hub: Hub, wanted: ModelWanted) -> Snapshot:
    """The model's commit and the files to fetch of it, having asked whether they may be downloaded.

    Raises:
        InputError: it is not there, not for this token, or no model that may be loaded.
    """
    there = hub.snapshot(wanted.name, wanted.revision)
    names = [file.name for file in there.files]
    if wanted.weights_url:
        chosen = choice.beside(wanted.name, names, field=MODEL_NAME)
    else:
        try:
            chosen = choice.model_files(wanted.name, names, field=MODEL_NAME)
        except InputError as refused:
            if refused.reason != MODEL_FORMAT_UNSUPPORTED or (sibling := hub.sibling(wanted.name)) is None:
                raise
            chosen = choice.model_files(wanted.name, names, sibling=sibling, field=MODEL_NAME)
    hub.authorize(there, there.file(choice.CONFIG))
    return Snapshot(there.name, there.revision, there.commit, tuple(there.file(name) for name in chosen))


def read_small(hub: Hub, snapshot: Snapshot, name: str) -> bytes:
    """A small file's content; it is kept nowhere.

    Raises:
        InputError: it cannot be had.
    """
    with tempfile.TemporaryDirectory() as scratch:
        hub.download(snapshot, snapshot.file(name), Path(scratch))
        return (Path(scratch) / name).read_bytes()


@dataclass(frozen=True, slots=True)
class Place:
    """For whom a model is fetched, and who hears of it.

    Attributes:
        project: whose cache it is; no project sees another's.
        attempt: the attempt's directory.
        expects: called with the directory that now fills, and with how many bytes it will hold.
        waiting: called before waiting for another job's download.
    """

    project: str
    attempt: Path
    expects: Callable[[Path, int], None]
    waiting: Callable[[], None]


def from_hub(hub: Hub, wanted: ModelWanted, settings: InputSettings, place: Place) -> Model:
    """The model's directory in this node's cache.

    Raises:
        InputError: see `look`; or it could not be brought here.
    """
    snapshot = look(hub, wanted)
    kind = "beside" if wanted.weights_url else "model"
    name = snapshot.name.replace("/", "--")
    entry = Entry(Path(settings.cache_dir), place.project, f"{kind}--{name}", snapshot.commit)
    size_bytes = sum(file.size_bytes for file in snapshot.files)

    def fill(directory: Path) -> None:
        place.expects(directory, size_bytes)
        download_all(hub, snapshot, directory)

    cache = ModelCache(Path(settings.cache_dir), limit_bytes=settings.cache_bytes)
    path = cache.obtain(entry, size_bytes, user=place.attempt, fill=fill, waiting=place.waiting)
    return Model(path, wanted.name, snapshot.commit)


def download_all(hub: Hub, snapshot: Snapshot, directory: Path) -> None:
    """All files of a snapshot, some at once, the largest first; what is here already and whole is kept."""

    def bring(file: RemoteFile) -> None:
        target = directory / file.name
        if not target.exists() or not is_whole(target, file):
            hub.download(snapshot, file, directory)

    by_size = sorted(snapshot.files, key=lambda file: -file.size_bytes)
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download")
    try:
        for done in [pool.submit(bring, file) for file in by_size]:
            done.result()
    finally:
        # One failure is enough: this process ends with it, and what others brought so far is gone on with.
        pool.shutdown(wait=False, cancel_futures=True)
    # The library's notes on what is under way.
    shutil.rmtree(directory / ".cache", ignore_errors=True)


def _platform_token(settings: InputSettings) -> str | None:
    if settings.hub_token_file is None:
        return None
    try:
        return Path(settings.hub_token_file).read_text(encoding="ascii").strip() or None
    except (OSError, ValueError) as error:
        raise InputError(CONFIG_INVALID, "hub_token_file: the platform's hub token cannot be read") from error


def local_directory(wanted: ModelWanted, settings: InputSettings) -> Path:
    """The directory that a local model names.

    Raises:
        InputError: there is none, or none that this node's agent allows.
    """
    path = Path(wanted.name)
    roots = [Path(root).resolve() for root in settings.model_roots]
    if roots and not any(path.resolve().is_relative_to(root) for root in roots):
        raise InputError(
            STORAGE_DENIED,
            f"{MODEL_NAME}: {path} is not below a directory that this node's agent allows "
            f"({', '.join(settings.model_roots)}); see --model-root",
        )
    if not path.is_dir():
        raise InputError(MODEL_NOT_FOUND, f"{MODEL_NAME}: there is no directory {path} on this node")
    return path
