"""Checkpoints: the state of a training on disk, so that a killed one goes on as if nothing had happened (ADR 0021).

    <attempt>/checkpoints/00000012/   weights.safetensors optimizer.safetensors state.json manifest.json

One is written aside, fsynced, given its manifest last, and renamed. Only one whose every file is as its manifest says
is ever loaded; a broken one is passed over for the one before, in words, never for fresh state in silence.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FORMAT_VERSION = 1
DIRECTORY = "checkpoints"
STORED = ".checkpoints"
"""Where a job's lie beside its output, by its uid."""
MANIFEST = "manifest.json"
KEPT = 2
"""How many, where the job does not say: one may turn out broken."""
_ASIDE = ".writing-"


def stored_below(output_uri: str, uid: str) -> str:
    """Where a job's checkpoints lie in shared storage, given its output's URI."""
    return f"{output_uri.rstrip('/')}/{STORED}/{uid}/"


class CheckpointBrokenError(Exception):
    """It is not what its manifest says, or has none; `str()` says what is wrong."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole one on disk."""

    step: int
    """Optimizer steps made before it was written."""
    path: Path
    size_bytes: int
    manifest_digest: str
    """sha256 of the manifest, which has that of every file."""
    oldest_step: int = 0
    """Of one just written: the step of the oldest that is kept beside it."""


def save(
    root: Path,
    step: int,
    writers: Mapping[str, Callable[[Path], None]],
    *,
    keep: int,
    beat: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Write a checkpoint, durable when this returns; then remove all but the newest `keep`, it among them.

    Args:
        root: the directory of all of them.
        step: optimizer steps made.
        writers: what writes each file, by the file's name.
        keep: at least 1.
        beat: called after each file, as a sign of life.

    Raises:
        OSError: the disk refused; nothing but a directory that no one reads is left behind.
    """
    root.mkdir(exist_ok=True)
    aside, place = root / f"{_ASIDE}{step:08d}", root / f"{step:08d}"
    for stale in (*root.glob(f"{_ASIDE}*"), place):
        shutil.rmtree(stale, ignore_errors=True)
    aside.mkdir()
    files: dict[str, dict[str, str | int]] = {}
    size = 0
    for name, write in writers.items():
        write(aside / name)
        failpoint(f"trainer.checkpoint-{step}.{name}")
        _sync(aside / name)
        beat()
        files[name] = {"sha256": _digest(aside / name), "size_bytes": (aside / name).stat().st_size}
        size += (aside / name).stat().st_size
    manifest = json.dumps({"format_version": FORMAT_VERSION, "step": step, "files": files}, indent=1).encode()
    (aside / MANIFEST).write_bytes(manifest)
    failpoint(f"trainer.checkpoint-{step}.{MANIFEST}")
    _sync(aside / MANIFEST)
    _sync(aside)
    failpoint(f"trainer.checkpoint-{step}.rename")
    aside.rename(place)
    _sync(root)
    _sync(root.parent)
    failpoint(f"trainer.checkpoint-{step}.saved")
    found = newest_first([root])
    kept = [path for path in found if int(path.name) <= step][:keep]
    for path in found:
        if path not in kept:  # older, or of a later step and so passed over when this training went on
            shutil.rmtree(path)
    return Checkpoint(step, place, size + len(manifest), sha256(manifest).hexdigest(), int(kept[-1].name))


def remove(root: Path, step: int) -> None:
    """Remove a checkpoint: first out of everybody's sight, then from the disk."""
    place = root / f"{step:08d}"
    aside = root / f"{_ASIDE}{place.name}"
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def usable(roots: Iterable[Path], broken: Callable[[Path, str], None]) -> Iterator[Checkpoint]:
    """The whole checkpoints below these directories, newest first; each is verified when its turn comes.

    Args:
        roots: directories that hold checkpoints; those that are missing have none.
        broken: told of each that is passed over, and why.
    """
    for path in newest_first(roots):
        try:
            yield verified(path)
        except CheckpointBrokenError as error:
            broken(path, str(error))


def verified(path: Path) -> Checkpoint:
    """The checkpoint in this directory, every file of it read and compared with the manifest.

    Raises:
        CheckpointBrokenError: it is not whole.
    """
    try:
        manifest = (path / MANIFEST).read_bytes()
        document = json.loads(manifest)
        files, step = document["files"], int(document["step"])
        if document["format_version"] != FORMAT_VERSION:
            raise CheckpointBrokenError(f"its format {document['format_version']} is another version's")
        if step != int(path.name) or set(files) != {entry.name for entry in path.iterdir()} - {MANIFEST}:
            raise CheckpointBrokenError("it does not hold what its manifest lists")
        for name, facts in files.items():
            if (path / name).stat().st_size != facts["size_bytes"] or _digest(path / name) != facts["sha256"]:
                raise CheckpointBrokenError(f"{name} is not the file that was written")
    except FileNotFoundError as error:
        raise CheckpointBrokenError(f"{Path(error.filename).name} is missing") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointBrokenError(f"it cannot be read: {error}") from error
    size = len(manifest) + sum(int(facts["size_bytes"]) for facts in files.values())
    return Checkpoint(step, path, size, sha256(manifest).hexdigest())


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Its `state.json`."""
    state: dict[str, Any] = json.loads((checkpoint.path / "state.json").read_bytes())
    return state


def newest_first(roots: Iterable[Path]) -> list[Path]:
    """Every directory below these that is named as a checkpoint, whole or not."""
    found = [
        entry
        for root in roots
        if root.is_dir()
        for entry in root.iterdir()
        if entry.name.isascii() and entry.name.isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
