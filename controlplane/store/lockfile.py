"""The lock beside a SQLite file: one control plane a database.

`flock` ends with its process, however that ends, so a lock is never stale; the pid in the file is for people.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

from controlplane.store.faults import StoreHeld

if TYPE_CHECKING:
    from pathlib import Path


class FileLock:
    """A lock that is held from `taken` to `release`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def taken(cls, path: Path) -> Self:
        """Takes the lock at once.

        Raises:
            StoreHeld: another process (or another store of this one) has it; names its pid.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            os.close(descriptor)
            raise StoreHeld(f"{path} is locked: process {holder} has this database open") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Lets go. The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._descriptor)
