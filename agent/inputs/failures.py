"""What can go wrong when inputs are fetched, in the reasons of docs/trainer-contract.md.

InputError
├── reasons that do not mend themselves: MODEL_NOT_FOUND MODEL_FORMAT_UNSUPPORTED HUB_UNAUTHORIZED DATASET_NOT_FOUND
│                                        BUCKET_NOT_FOUND STORAGE_DENIED CONFIG_INVALID
└── reasons that may: HUB_UNAVAILABLE STORAGE_UNAVAILABLE DISK_FULL
"""

from __future__ import annotations

import errno

MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
MODEL_FORMAT_UNSUPPORTED = "MODEL_FORMAT_UNSUPPORTED"
HUB_UNAUTHORIZED = "HUB_UNAUTHORIZED"
HUB_UNAVAILABLE = "HUB_UNAVAILABLE"
DATASET_NOT_FOUND = "DATASET_NOT_FOUND"
DATASET_INVALID = "DATASET_INVALID"
BUCKET_NOT_FOUND = "BUCKET_NOT_FOUND"
STORAGE_DENIED = "STORAGE_DENIED"
STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
CONFIG_INVALID = "CONFIG_INVALID"
DISK_FULL = "DISK_FULL"

_PASSING = frozenset({HUB_UNAVAILABLE, STORAGE_UNAVAILABLE, DISK_FULL})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class InputError(Exception):
    """An input could not be fetched; `reason` is UPPER_SNAKE, `str()` is for people, without any secret."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def lasting(self) -> bool:
        """Trying again would end the same."""
        return self.reason not in _PASSING


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, is this host's full disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def disk_full(what: str) -> InputError:
    """The node's disk has no room for an input.

    Args:
        what: the spec's field, and what of it there is no room for.
    """
    return InputError(DISK_FULL, f"{what} is full: free some, or give the agent a larger data_dir")
