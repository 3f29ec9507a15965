"""A hint that something changed in a directory, from the kernel; only a hint, behind which its user looks again anyway.

Through ctypes: three calls, against a package with threads of its own. Where the kernel has no inotify, or the watches
have run out, directories are not watched, and the slower look behind the hint has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

Name = TypeVar("Name")

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_IN_Q_OVERFLOW, _IN_IGNORED = 0x4000, 0x8000
_EVENT = struct.Struct("iIII")
_BUFFER_BYTES = 64 * 1024


class Watches(Generic[Name]):
    """Watches some directories, each under a name of the caller's."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._names: dict[int, Name] = {}

    def add(self, directory: Path, name: Name) -> None:
        """Watch a directory's files, not those of its subdirectories. Best effort."""
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        watch = self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask)
        if watch >= 0:
            self._names[watch] = name

    def remove(self, name: Name) -> None:
        """Watch it no longer. Repeatable."""
        for watch in [watch for watch, known in self._names.items() if known == name]:
            del self._names[watch]
            self._libc.inotify_rm_watch(self._descriptor, watch)

    async def changed(self, seconds: float) -> set[Name]:
        """Wait for a change, up to `seconds`; the names of what changed since the last call."""
        if self._descriptor < 0:
            await asyncio.sleep(seconds)
            return set()
        if not (names := self.pending()):
            await self._readable(seconds)
            names = self.pending()
        return names

    def close(self) -> None:
        """Watch nothing any longer."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _readable(self, seconds: float) -> None:
        """The descriptor is registered only while somebody waits: a busy writer must not wake a busy reader."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._descriptor, readable.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await readable.wait()
        finally:
            loop.remove_reader(self._descriptor)

    def pending(self) -> set[Name]:
        """The names of what changed since the last call; does not wait."""
        names: set[Name] = set()
        while self._descriptor >= 0:
            try:
                data = os.read(self._descriptor, _BUFFER_BYTES)
            except BlockingIOError:
                return names
            position = 0
            while position < len(data):
                watch, mask, _cookie, length = _EVENT.unpack_from(data, position)
                position += _EVENT.size + length
                if mask & _IN_Q_OVERFLOW:
                    names.update(self._names.values())
                elif watch in self._names:
                    names.add(self._names[watch])
                if mask & _IN_IGNORED:
                    self._names.pop(watch, None)
        return names
