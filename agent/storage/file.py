"""A directory as storage: on this host, or on a file system that all hosts share."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIECE_BYTES = 1024 * 1024


class FileStorage:
    """See Storage. Directories are made as needed; a half-written file is hidden and never has its final name."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def put(self, name: str, source: Path) -> None:
        """See Storage."""
        with source.open("rb") as content:
            self._write(name, lambda stream: shutil.copyfileobj(content, stream, _PIECE_BYTES))

    def put_bytes(self, name: str, data: bytes) -> None:
        """See Storage."""
        self._write(name, lambda stream: stream.write(data))

    def copy(self, name: str, target: str) -> None:
        """See Storage."""
        self.put(target, self._root / name)

    def read(self, name: str) -> Iterator[bytes]:
        """See Storage."""
        with (self._root / name).open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece

    def download(self, name: str, target: Path) -> None:
        """See Storage."""
        with (self._root / name).open("rb") as content:
            _write(target, lambda stream: shutil.copyfileobj(content, stream, _PIECE_BYTES))

    def size(self, name: str) -> int:
        """See Storage."""
        return (self._root / name).stat().st_size

    def version(self, name: str) -> str:
        """See Storage."""
        found = (self._root / name).stat()
        return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"

    def exists(self, name: str) -> bool:
        """See Storage."""
        return (self._root / name).is_file()

    def names(self) -> Iterator[str]:
        """See Storage."""
        found = (path for path in self._root.rglob("*") if path.is_file())
        yield from sorted(path.relative_to(self._root).as_posix() for path in found)

    def remove_below(self, prefix: str) -> None:
        """See Storage."""
        path = self._root / prefix
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
        # The parent goes with its last child, and stays with any other; the root is the user's and stays.
        if path.parent != self._root:
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def _write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, fill)


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder outlive the host."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
