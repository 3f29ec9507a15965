"""What is kept of every row while its text is not: 32 bytes each, in a file that has no name.

It has as many entries as the datasets have rows, so it is read in blocks, and whoever compares rows does it for a part
of them at a time (`duplicates.py`, `splitting.py`). Nobody has to remove it: it goes when this process does.
"""

from __future__ import annotations

import struct
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

from agent.trainer.data.disk import words_for_full_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

BLOCK = 1 << 16
"""Entries that are read at once."""

ENTRY = [("high", ">u8"), ("low", ">u8"), ("key", ">u8"), ("number", ">i8")]
"""The fingerprint in two halves, its place in the order of the held-out rows, and the record's number in its file."""

_PACKED = struct.Struct(">16sQq")


class RowIndex:
    """The entries of all rows of all datasets, by the order in which they were read.

    Args:
        directory: on the disk that is to hold them; None: where temporary files are.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._file = tempfile.TemporaryFile(dir=directory, buffering=1 << 20)  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, self._file.close)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, fingerprint: bytes, key: int, number: int) -> None:
        """Note the next row.

        Raises:
            DiskFull: there is no room for it.
        """
        with words_for_full_disk(self._directory, "the fingerprints of the datasets' rows"):
            self._file.write(_PACKED.pack(fingerprint, key, number))
        self._count += 1

    def blocks(self, first: int = 0, count: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """The entries from `first` on, in blocks of at most BLOCK: the place of each block's first, and the block.

        Raises:
            DiskFull: what was appended last does not go to the disk.
        """
        import numpy as np

        with words_for_full_disk(self._directory, "the fingerprints of the datasets' rows"):
            self._file.flush()
        end = self._count if count is None else first + count
        for start in range(first, end, BLOCK):
            self._file.seek(start * _PACKED.size)
            content = self._file.read(min(BLOCK, end - start) * _PACKED.size)
            self._file.seek(0, 2)
            yield start, np.frombuffer(content, np.dtype(ENTRY))

    def entry(self, place: int) -> np.void:
        """One of them."""
        return next(self.blocks(place, 1))[1][0]  # type: ignore[no-any-return]
