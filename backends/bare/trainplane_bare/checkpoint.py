"""The state of a training on disk: whole if its manifest holds, and read only then.

    checkpoints/<step>/   weights.safetensors optimizer.safetensors state.json manifest.json

Written aside, fsynced, the manifest last, then renamed. A broken one is passed over, in words, for the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from hashlib import file_digest, sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole one."""

    step: int
    path: Path
    state: dict[str, Any]


def save(root: Path, step: int, writers: Mapping[str, Callable[[Path], None]], *, keep: int) -> dict[str, Any]:
    """Write one, durable when this returns, and remove all but the newest `keep`, it among them.

    Answers what is reported of it.
    """
    root.mkdir(exist_ok=True)
    aside, place = root / f".writing-{step:08d}", root / f"{step:08d}"
    for stale in (*root.glob(".writing-*"), place):
        shutil.rmtree(stale, ignore_errors=True)
    aside.mkdir()
    files: dict[str, dict[str, Any]] = {}
    for name, write in writers.items():
        write(aside / name)
        sync(aside / name)
        files[name] = {"sha256": _digest(aside / name), "size_bytes": (aside / name).stat().st_size}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    written = json.dumps(manifest).encode()
    (aside / _MANIFEST).write_bytes(written)
    sync(aside / _MANIFEST)
    sync(aside)
    aside.rename(place)
    sync(root)
    found = _newest_first([root])
    kept = [path for path in found if int(path.name) <= step][:keep]
    for path in found:
        if path not in kept:
            shutil.rmtree(path)
    return {
        "step": step,
        "size_bytes": len(written) + sum(int(facts["size_bytes"]) for facts in files.values()),
        "manifest_digest": sha256(written).hexdigest(),
        "oldest_step": int(kept[-1].name),
    }


def usable(roots: Sequence[Path], identity: str, passed_over: Callable[[Path, str], None]) -> Iterator[Checkpoint]:
    """Those of this training below the roots, newest first.

    Args:
        roots: directories of checkpoints; missing ones have none.
        identity: what a checkpoint of this training says of itself.
        passed_over: told of each that cannot be used, and why.
    """
    for path in _newest_first(roots):
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
            broken = [name for name, facts in manifest["files"].items() if _digest(path / name) != facts["sha256"]]
            state = {} if broken else json.loads((path / "state.json").read_bytes())
        except (OSError, ValueError, LookupError, TypeError) as error:
            passed_over(path, f"it cannot be read: {error}")
            continue
        if broken:
            passed_over(path, f"{broken[0]} is not the file that was written")
        elif state.get("identity") != identity:
            passed_over(path, "it is of other data or another model")
        else:
            yield Checkpoint(int(path.name), path, state)


def sync(path: Path) -> None:
    """Fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest_first(roots: Sequence[Path]) -> list[Path]:
    found = [each for root in roots if root.is_dir() for each in root.iterdir() if each.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
