"""Log bytes in files: `ports.BlobStore` below one directory."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class FileBlobs:
    """Blobs as files; keys are relative paths of our own making."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, key: str, data: bytes, *, offset_bytes: int) -> None:
        """Writes at an offset; what was there is replaced."""
        await asyncio.to_thread(self._put, key, data, offset_bytes)

    async def get(self, key: str, *, offset_bytes: int, size_bytes: int) -> bytes:
        """Reads up to so many bytes; empty: nothing there."""
        return await asyncio.to_thread(self._get, key, offset_bytes, size_bytes)

    def _put(self, key: str, data: bytes, offset_bytes: int) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.pwrite(descriptor, data, offset_bytes)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _get(self, key: str, offset_bytes: int, size_bytes: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                file.seek(offset_bytes)
                return file.read(size_bytes)
        except FileNotFoundError:
            return b""

    def _path(self, key: str) -> Path:
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise ValueError(f"{key!r} lies outside the blob store")
        return path
