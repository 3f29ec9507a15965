"""A job's datasets onto this node, into the attempt's own directory: from S3, by https, and from the hub.

Objects of S3 are read each with its own role; what comes by https passes the outbound rules; of a repository of the hub
come the files of one split (`choice.dataset_files`), at one commit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from agent.inputs import choice
from agent.inputs.failures import (
    BUCKET_NOT_FOUND,
    CONFIG_INVALID,
    DATASET_NOT_FOUND,
    STORAGE_DENIED,
    STORAGE_UNAVAILABLE,
    InputError,
    disk_full,
    is_disk_full,
)
from agent.inputs.https import Download
from agent.inputs.hub import a_dataset
from agent.inputs.models import download_all
from agent.storage import UnsupportedURIError, open_object
from agent.storage.access import Access, session_name
from agent.storage.errors import BucketNotFoundError, StorageMisusedError
from trainplane.addresses import OutboundRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.inputs.fetch import FetchJob

_FILE = "file://"
_HTTPS = "https://"
_HUB = "hf:"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset on this node: a file, or a directory of files that are read in the order of their names."""

    path: Path
    commit: str = ""
    """Of the hub; empty where the source knows none."""


def fetch_datasets(job: FetchJob, directory: Path, *, expects: Callable[[Path, int], None]) -> list[Dataset]:
    """Where each of the job's `datasets` is now, in order. What was fetched before is not fetched again.

    Args:
        job: whose they are.
        directory: where fetched ones go.
        expects: called with the directory and its size to come before each download.

    Raises:
        InputError: one is not there, not allowed, or does not come.
    """
    return [_fetched(job, index, directory, expects) for index in range(len(job.spec["datasets"]))]


def _fetched(job: FetchJob, index: int, directory: Path, expects: Callable[[Path, int], None]) -> Dataset:
    wanted = job.spec["datasets"][index]
    source, field = str(wanted["source"]), f"datasets[{index}].source"
    if source.startswith(_FILE):
        return Dataset(Path(unquote(source.removeprefix(_FILE))))
    if source.startswith(_HUB):
        return _from_hub(job, index, directory / f"dataset-{index}", expects)
    # The suffix stays: it is what a reader without `format` goes by.
    target = directory / f"dataset-{index}{PurePosixPath(urlsplit(source).path).suffix}"
    if target.exists():
        return Dataset(target)
    if source.startswith(_HTTPS):
        settings = job.settings
        download = Download(
            source,
            field,
            limit_bytes=settings.cache_bytes,
            rules=OutboundRules.of(hosts=settings.allowed_hosts, networks=settings.allowed_networks),
            ca_bundle=settings.ca_bundle,
            missing=DATASET_NOT_FOUND,
        )
        download.into(target, expects=lambda size: expects(directory, size))
        return Dataset(target)
    role = (wanted.get("auth") or {}).get("role_arn")
    access = Access(session_name=session_name(job.job_id), role_arn=role, field=field, settings=job.storage)
    bring(source, access, target, missing=DATASET_NOT_FOUND, expects=expects)
    return Dataset(target)


def _from_hub(job: FetchJob, index: int, directory: Path, expects: Callable[[Path, int], None]) -> Dataset:
    wanted, field = job.spec["datasets"][index], f"datasets[{index}].source"
    name, _, revision = str(wanted["source"]).removeprefix(_HUB).partition("@")
    hub = replace(job.hub(), subject=a_dataset(field))
    there = hub.snapshot(name, revision or "main")
    chosen = choice.dataset_files(
        name,
        [file.name for file in there.files],
        split=wanted.get("split", "train"),
        form=wanted.get("format", ""),
        field=field,
    )
    snapshot = replace(there, files=tuple(there.file(file) for file in chosen))
    directory.mkdir(exist_ok=True)
    expects(directory, sum(file.size_bytes for file in snapshot.files))
    download_all(hub, snapshot, directory)
    first = directory / chosen[0]
    return Dataset(first if len(chosen) == 1 else first.parent, there.commit)


def bring(source: str, access: Access, target: Path, *, missing: str, expects: Callable[[Path, int], None]) -> None:
    """One object into a file: whole, or none.

    Args:
        source: its URI.
        access: by whose leave.
        target: the file.
        missing: the reason where there is no such object.
        expects: called with the target's directory and the size to come there.

    Raises:
        InputError: it is not there, not allowed, or does not come.
    """
    try:
        storage, name = open_object(source, access)
        expects(target.parent, storage.size(name))
        storage.download(name, target)
    except (OSError, UnsupportedURIError) as error:
        raise blamed(error, access, missing=missing) from error


def blamed(error: OSError | UnsupportedURIError, access: Access, *, missing: str) -> InputError:
    """A storage's error as an input's: it says in words what and why."""
    words = str(error)
    if access.field not in words and access.role_field not in words:
        words = f"{access.field}: {words}"
    if is_disk_full(error):
        return disk_full(f"{access.field}: the node's disk")
    if isinstance(error, BucketNotFoundError):
        return InputError(BUCKET_NOT_FOUND, words)
    if isinstance(error, FileNotFoundError):
        return InputError(missing, words)
    if isinstance(error, PermissionError):
        if access.role_arn is not None and access.role_field not in words:
            words = f"{access.role_field}: {words.removeprefix(f'{access.field}: ')}"
        return InputError(STORAGE_DENIED, words)
    if isinstance(error, (StorageMisusedError, UnsupportedURIError)):
        return InputError(CONFIG_INVALID, words)
    return InputError(STORAGE_UNAVAILABLE, words)
