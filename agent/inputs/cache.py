"""Models kept on this node for all jobs of a project: each downloaded once, at most so many bytes of them.

    <root>/<project>/<model>/<commit>/         a whole model; `complete.json` in `.<commit>/` says so
    <root>/<project>/<model>/.<commit>/        lock, uses (links to attempts' directories), complete.json
    <root>/<project>/<model>/.<commit>/partial what has arrived so far; the next download goes on with it

Who may read a model is not asked here: the caller asks the hub first, every time. An attempt that uses a model leaves a
link to its own directory; a link that leads nowhere is nobody's, so neither a crash nor a lost agent keeps a model for
ever. Every process of the host that uses the directory agrees by file locks.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.inputs.failures import DISK_FULL, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SPARE_BYTES = 256 << 20
"""Left free on the disk for everybody else."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model at one commit, whole or not."""

    root: Path
    project: str
    model: str
    commit: str

    @property
    def directory(self) -> Path:
        """The whole model."""
        return self.root / self.project / self.model / self.commit

    @property
    def notes(self) -> Path:
        """What is known about it."""
        return self.directory.with_name(f".{self.commit}")

    @property
    def partial(self) -> Path:
        """What has arrived so far."""
        return self.notes / "partial"

    @property
    def complete(self) -> Path:
        """Exists once the model is whole; its time is the last use."""
        return self.notes / "complete.json"

    @property
    def expected(self) -> Path:
        """How large it will be, while it arrives."""
        return self.notes / "expected.json"

    def used(self) -> bool:
        """Whether an attempt that is still there uses it; links of others are removed."""
        found = False
        for link in listed(self.notes / "uses"):
            if link.exists():
                found = True
            else:
                link.unlink(missing_ok=True)
        return found

    def size_bytes(self) -> int:
        """What it takes of the disk, or will once it has arrived."""
        for note in (self.complete, self.expected):
            try:
                return int(json.loads(note.read_bytes())["size_bytes"])
            except (OSError, ValueError, KeyError):
                continue
        return 0

    def last_use(self) -> float:
        """When it was last asked for, by the file system's clock."""
        times = [note.stat().st_mtime for note in (self.complete, self.expected) if note.exists()]
        return max(times, default=0.0)


class ModelCache:
    """The cache below one directory.

    Args:
        root: where.
        limit_bytes: what is not in use is removed until no more than this is kept, the longest unused first. What is in
            use stays, even beyond the limit.
    """

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes

    def obtain(
        self, entry: Entry, size_bytes: int, *, user: Path, fill: Callable[[Path], None], waiting: Callable[[], None]
    ) -> Path:
        """The model's directory: as it is here, or filled now. Never to be written to.

        Args:
            entry: which.
            size_bytes: how large it is.
            user: the attempt's directory; while it exists, the model stays.
            fill: brings all files into a directory, which may hold some of them.
            waiting: called before waiting for another download of the same model.

        Raises:
            InputError: from `fill`; or DISK_FULL.
        """
        # Gated models are nobody's business but this user's.
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        entry.notes.mkdir(parents=True, exist_ok=True)
        _link(entry.notes / "uses" / user.name, user)
        with _locked(entry.notes / "lock", waiting=waiting):
            if entry.complete.exists() and entry.directory.is_dir():
                os.utime(entry.complete)
                return entry.directory
            entry.complete.unlink(missing_ok=True)
            _write(entry.expected, {"size_bytes": size_bytes})
            self._make_room(entry, size_bytes)
            entry.partial.mkdir(exist_ok=True)
            fill(entry.partial)
            _sync(entry.partial)
            shutil.rmtree(entry.directory, ignore_errors=True)
            entry.partial.rename(entry.directory)
            _sync(entry.directory.parent)
            _write(entry.complete, {"size_bytes": size_bytes, "commit": entry.commit})
            entry.expected.unlink()
            return entry.directory

    def entries(self) -> list[Entry]:
        """Every model that is here, or was begun, the longest unused first."""
        found = [
            Entry(self._root, project.name, model.name, notes.name[1:])
            for project in listed(self._root)
            if not project.name.startswith(".")
            for model in listed(project)
            for notes in listed(model)
            if notes.name.startswith(".")
        ]
        return sorted((entry for entry in found if entry.size_bytes()), key=Entry.last_use)

    def _make_room(self, wanted: Entry, size_bytes: int) -> None:
        """Remove what is longest unused, until the wanted one fits below the limit and onto the disk."""
        with _locked(self._root / ".lock"):
            entries = self.entries()
            kept_bytes = sum(entry.size_bytes() for entry in entries)
            arrived_bytes = sum(path.stat().st_size for path in wanted.partial.rglob("*") if path.is_file())
            missing_bytes = max(size_bytes - arrived_bytes, 0)
            for entry in entries:
                fits = shutil.disk_usage(self._root).free >= missing_bytes + _SPARE_BYTES
                if kept_bytes <= self._limit_bytes and fits:
                    break
                size = entry.size_bytes()
                if entry != wanted and _removed(entry):
                    kept_bytes -= size
            free = shutil.disk_usage(self._root).free
        if free < missing_bytes + _SPARE_BYTES:
            raise InputError(
                DISK_FULL,
                f"base_model.model_name: the model takes {missing_bytes / 2**30:.1f} GiB more and the node's model "
                f"cache has {free / 2**30:.1f} GiB free; give it a larger disk (cache_dir)",
            )


def _removed(entry: Entry) -> bool:
    """Remove a model unless somebody uses or fetches it."""
    try:
        with _locked(entry.notes / "lock", wait=False):
            if entry.used():
                return False
            entry.complete.unlink(missing_ok=True)
            shutil.rmtree(entry.directory, ignore_errors=True)
            shutil.rmtree(entry.partial, ignore_errors=True)
            entry.expected.unlink(missing_ok=True)
            return True
    except BlockingIOError:
        return False


@contextmanager
def _locked(path: Path, *, wait: bool = True, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            waiting()
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def listed(directory: Path) -> list[Path]:
    """What is in a directory, by name; nothing where there is none."""
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    aside.symlink_to(target)
    aside.rename(path)


def _write(path: Path, content: dict[str, object]) -> None:
    aside = path.with_name(f"{path.name}.tmp")
    with aside.open("w", encoding="ascii") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
