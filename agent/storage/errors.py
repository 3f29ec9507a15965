"""What a storage can answer instead of bytes. Each is an OSError whose text is for people: field, cause and remedy.

StorageError                    may pass: worth another try
├── StorageDeniedError          forbidden, or no credentials         (also a PermissionError)
├── BucketNotFoundError         there is no such bucket
├── StorageMisusedError         a request that no store takes: a name, a region, a setting
└── ObjectNotFoundError         there is no such object              (also a FileNotFoundError)
"""

from __future__ import annotations

import errno


class StorageError(OSError):
    """The place did not do it, and may yet."""

    code = errno.EIO

    def __init__(self, words: str) -> None:
        super().__init__(self.code, words)

    def __str__(self) -> str:
        return str(self.strerror)


class StorageDeniedError(StorageError, PermissionError):
    """Credentials are missing, wrong, or not allowed to do it."""

    code = errno.EACCES


class BucketNotFoundError(StorageError):
    """There is no such bucket."""

    code = errno.ENXIO


class StorageMisusedError(StorageError):
    """The request itself is one that no try mends."""

    code = errno.EINVAL


class ObjectNotFoundError(StorageError, FileNotFoundError):
    """There is no such object."""

    code = errno.ENOENT
