"""A job's datasets onto this node: objects of S3 into the attempt's own directory, each with its own role."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from agent.inputs.failures import (
    BUCKET_NOT_FOUND,
    CONFIG_INVALID,
    DATASET_NOT_FOUND,
    DISK_FULL,
    STORAGE_DENIED,
    STORAGE_UNAVAILABLE,
    InputError,
    is_disk_full,
)
from agent.storage import UnsupportedURIError, open_object
from agent.storage.access import Access, StorageSettings, session_name
from agent.storage.errors import BucketNotFoundError, StorageMisusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FILE = "file://"


def fetch_datasets(
    spec: Mapping[str, Any],
    directory: Path,
    *,
    job_id: str,
    settings: StorageSettings,
    expects: Callable[[Path, int], None],
) -> list[Path]:
    """A local path for each of `datasets`, in order. What was fetched before is not fetched again.

    Args:
        spec: the effective spec.
        directory: where fetched ones go.
        job_id: names the role's session.
        settings: how this platform reaches object stores.
        expects: called with the directory and its size to come before each download.

    Raises:
        InputError: one is not there, not allowed, or does not come.
    """
    paths = []
    for index, dataset in enumerate(spec["datasets"]):
        source = str(dataset["source"])
        if source.startswith(_FILE):
            paths.append(Path(unquote(source.removeprefix(_FILE))))
            continue
        access = Access(
            session_name=session_name(job_id),
            role_arn=(dataset.get("auth") or {}).get("role_arn"),
            field=f"datasets[{index}].source",
            settings=settings,
        )
        # A folder of its own, whose size says how much has come; the suffix is what a reader may go by.
        target = directory / f"dataset-{index}" / f"rows{Path(source).suffix}"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            bring(source, access, target, missing=DATASET_NOT_FOUND, expects=expects)
        paths.append(target)
    return paths


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
        return InputError(DISK_FULL, f"{access.field}: the node's disk is full")
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
