"""What can go wrong when bytes are moved, in the reasons of docs/trainer-contract.md.

UploadError
├── reasons that do not mend themselves: OUTPUT_EXISTS STORAGE_DENIED BUCKET_NOT_FOUND ARTIFACTS_LOST
│   CONFIG_INVALID
└── reasons that may, and are tried again for a while: DISK_FULL STORAGE_UNAVAILABLE
"""

from __future__ import annotations

import errno

from agent.storage.errors import BucketNotFoundError, StorageDeniedError, StorageError, StorageMisusedError

OUTPUT_EXISTS = "OUTPUT_EXISTS"
STORAGE_DENIED = "STORAGE_DENIED"
ARTIFACTS_LOST = "ARTIFACTS_LOST"
CONFIG_INVALID = "CONFIG_INVALID"
BUCKET_NOT_FOUND = "BUCKET_NOT_FOUND"
DISK_FULL = "DISK_FULL"
STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REASONS: dict[type[StorageError], str] = {
    StorageDeniedError: STORAGE_DENIED,
    BucketNotFoundError: BUCKET_NOT_FOUND,
    StorageMisusedError: CONFIG_INVALID,
}


class UploadError(Exception):
    """Bytes could not be moved; `reason` is UPPER_SNAKE, `str()` is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def lasting(self) -> bool:
        """Trying again would end the same."""
        return self.reason not in {DISK_FULL, STORAGE_UNAVAILABLE}


def from_os_error(error: OSError, *, what: str) -> UploadError:
    """The upload error that an operating system's or a storage's error amounts to; `what`: what was being done."""
    if isinstance(error, StorageError):
        return UploadError(_REASONS.get(type(error), STORAGE_UNAVAILABLE), str(error))
    reason, remedy = STORAGE_UNAVAILABLE, ""
    if error.errno in _DENIED:
        reason, remedy = STORAGE_DENIED, ": let the agent's user write there, or name another place"
    elif error.errno in _FULL:
        reason, remedy = DISK_FULL, ": free some room there, or name another place"
    place = f" ({error.filename})" if error.filename else ""
    return UploadError(reason, f"{what}: {error.strerror or error}{place}{remedy}")
