"""Checkpoints in shared storage, so that a job goes on where its first node is gone (ADR 0022).

    <output_uri>/.checkpoints/<uid>/<step>.<attempt>/   the files of one, its manifest.json last

Whoever finds a manifest finds what it lists, or a checkpoint that is passed over: nothing is used before every file was
compared with it. An attempt writes below its own number only: one that was given up mixes nothing into its successor's.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.checkpoint import DIRECTORY, MANIFEST, CheckpointBrokenError, newest_first, usable, verified
from agent.failpoints import failpoint
from agent.uploader.failures import from_os_error

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage

_PLACE = re.compile(r"(\d{8,12})\.(\d{1,9})/([A-Za-z0-9_][A-Za-z0-9_.-]*)")
_UPLOADING = ".uploading"
_FETCHING = ".fetching"


@dataclass(frozen=True, slots=True)
class _Stored:
    """One in shared storage, whole or not."""

    step: int
    attempt: int
    files: frozenset[str]

    @property
    def place(self) -> str:
        return f"{self.step:08d}.{self.attempt}"


def upload(storage: Storage, directory: Path, attempt: int, *, keep: int) -> dict[str, Any]:
    """Store the newest whole checkpoint of an attempt, then remove all but the newest `keep` of the job.

    Args:
        storage: see `stored_below`.
        directory: the attempt's.
        attempt: its number.
        keep: at least 1.

    Returns:
        `step`, `manifest_digest` and `size_bytes` of it; nothing where there is none.

    Raises:
        UploadError: it could not be stored; what is there stays.
    """
    root = directory / DIRECTORY
    aside = root / _UPLOADING
    try:
        for path in newest_first([root]):
            try:
                # The trainer may remove it meanwhile; what is linked stays.
                shutil.rmtree(aside, ignore_errors=True)
                shutil.copytree(path, aside / path.name, copy_function=os.link)
                found = verified(aside / path.name)
            except (CheckpointBrokenError, FileNotFoundError, shutil.Error):
                continue
            stored = _Stored(found.step, attempt, frozenset())
            names = sorted(entry.name for entry in found.path.iterdir())
            for name in sorted(names, key=lambda name: name == MANIFEST):
                storage.put(f"{stored.place}/{name}", found.path / name)
                failpoint(f"uploader.checkpoint-{name}")
            _forget(storage, keep)
            return {"step": found.step, "manifest_digest": found.manifest_digest, "size_bytes": found.size_bytes}
    except OSError as error:
        raise from_os_error(error, what="storing a checkpoint below artifacts.output_uri") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {}


def fetch(storage: Storage, directory: Path) -> dict[str, Any]:
    """Bring the newest whole checkpoint of the job here, unless one of the attempt's own is as new.

    Returns:
        `stored`: the step of the newest that the storage is known to have, 0: none; `told`: in words, what was passed
        over and why, and that there is none.

    Raises:
        UploadError: the storage does not answer, or the disk is full.
    """
    root = directory / DIRECTORY
    aside = root / _FETCHING
    told: list[str] = []
    known = 0
    own = next(usable([root], lambda path, why: told.append(_passed_over(int(path.name), why))), None)
    try:
        for stored in _found(storage):
            if own is not None and stored.step <= own.step:
                known = stored.step if stored.step == own.step and MANIFEST in stored.files else 0
                break
            try:
                _download(storage, stored, aside)
            except (CheckpointBrokenError, FileNotFoundError) as error:
                told.append(_passed_over(stored.step, str(error)))
                continue
            place = root / f"{stored.step:08d}"
            shutil.rmtree(place, ignore_errors=True)
            (aside / place.name).rename(place)
            return {"stored": stored.step, "told": told}
    except OSError as error:
        raise from_os_error(error, what="fetching a checkpoint from below artifacts.output_uri") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if own is None:
        told.append("no checkpoint of an earlier attempt can be had; training begins at step 0")
    return {"stored": known, "told": told}


def _download(storage: Storage, stored: _Stored, aside: Path) -> None:
    if MANIFEST not in stored.files:
        raise CheckpointBrokenError(f"{MANIFEST} is missing: it was not stored to its end")
    shutil.rmtree(aside, ignore_errors=True)
    local = aside / f"{stored.step:08d}"
    local.mkdir(parents=True)
    for name in sorted(stored.files):
        storage.download(f"{stored.place}/{name}", local / name)
    verified(local)


def _found(storage: Storage) -> list[_Stored]:
    """Newest first; of one step, that of the latest attempt. Names that are not ours are nobody's."""
    files: dict[tuple[int, int], set[str]] = {}
    for name in storage.names():
        if match := _PLACE.fullmatch(name):
            files.setdefault((int(match[1]), int(match[2])), set()).add(match[3])
    return [_Stored(step, attempt, frozenset(names)) for (step, attempt), names in sorted(files.items(), reverse=True)]


def _forget(storage: Storage, keep: int) -> None:
    whole = 0
    for stored in _found(storage):
        if whole >= keep:
            storage.remove_below(stored.place)
        whole += MANIFEST in stored.files


def _passed_over(step: int, why: str) -> str:
    return f"the checkpoint of step {step} is passed over: {why}"
