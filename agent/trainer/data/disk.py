"""What a job says when the disk that its data is written to while it is read has no room for it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.trainer.failures import DISK_FULL_ERRNOS, DiskFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def words_for_full_disk(directory: Path | None, what: str) -> Iterator[None]:
    """Inside it, a disk that is full is told as the data's, with the remedy.

    Raises:
        DiskFull: there was no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        free = shutil.disk_usage(directory).free / 2**30 if directory else 0.0
        raise DiskFull(
            f"datasets: the node's disk has no room for {what} ({error.strerror}; {free:.1f} GiB are free where "
            "attempts live); tokens take 4 bytes each: free some, give the agent a larger data_dir, or train on less"
        ) from error
