"""Tokenized examples on the disk: written as they are made, read as they are wanted.

    <name>.tokens   every example's tokens one after the other: four bytes each, the highest bit says that it is trained
    <name>.ends     16 bytes that no other such file has, then where each example ends: eight bytes each, in tokens

They are read with `pread`, not mapped: what is read often stays in the system's own cache, which is everybody's and
gives way, a disk that fails raises an error instead of killing the process, and nothing counts as this process' memory.
"""

from __future__ import annotations

import io
import os
import struct
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from agent.trainer.data.disk import words_for_full_disk
from agent.trainer.data.tokens import Example
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TRAINED = np.uint32(1 << 31)
MARK_BYTES = 16
WRITE_BYTES = 1 << 20
BLOCK_EXAMPLES = 1 << 16
BLOCK_TOKENS = 1 << 20
"""What is read at once where all examples are gone through, unless one of them is longer."""

_END = struct.Struct("<q")
_WHAT = "the datasets' tokens"


class ExampleWriter:
    """Writes the examples of one split.

    Args:
        directory: is there.
        name: of the split.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._end = 0
        self.count = 0
        with words_for_full_disk(directory, _WHAT):
            self._tokens = self._opened(f"{name}.tokens")
            self._ends = self._opened(f"{name}.ends")
            self._ends.write(os.urandom(MARK_BYTES))

    def _opened(self, name: str) -> io.BufferedWriter:
        raw = io.FileIO(self._directory / name, "wb")
        # After a full disk what waits in the buffer is lost: there is no room for it.
        weakref.finalize(self, raw.close)
        return io.BufferedWriter(raw, WRITE_BYTES)

    def append(self, example: Example) -> None:
        """Add an example.

        Raises:
            DiskFull: there is no room for it.
        """
        packed = example.ids.astype("<u4")
        packed[example.trained] |= TRAINED
        self._end += len(example)
        with words_for_full_disk(self._directory, _WHAT):
            self._tokens.write(packed.tobytes())
            self._ends.write(_END.pack(self._end))
        self.count += 1

    def finish(self) -> Examples:
        """All that were added; the writer is done with.

        Raises:
            DiskFull: there is no room for the last of them.
        """
        with words_for_full_disk(self._directory, _WHAT):
            self._tokens.close()
            self._ends.close()
        return Examples(self._directory, self._name)


class Examples(Sequence[Example]):
    """The examples of one split. Its files may be removed once it is there.

    Args:
        directory: where the files are.
        name: of the split.

    Raises:
        OSError: they are not there.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._tokens = (directory / f"{name}.tokens").open("rb", buffering=0)
        self._ends = (directory / f"{name}.ends").open("rb", buffering=0)
        for file in (self._tokens, self._ends):
            weakref.finalize(self, file.close)
        self.mark = self._read(self._ends.fileno(), MARK_BYTES, 0)
        """No other examples have the same."""
        self._count = (os.fstat(self._ends.fileno()).st_size - MARK_BYTES) // _END.size

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        start, end = self._bounds(place)
        return _unpacked(self._packed(start, end))

    def __iter__(self) -> Iterator[Example]:
        start = 0
        for ends in self.ends():
            taken = 0
            while taken < len(ends):
                fitting = int(np.searchsorted(ends, start + BLOCK_TOKENS, side="right"))
                upto = max(taken + 1, fitting)
                packed = self._packed(start, int(ends[upto - 1]))
                begin = start
                for end in ends[taken:upto].tolist():
                    yield _unpacked(packed[start - begin : end - begin])
                    start = end
                taken = upto
                PULSE.beat()

    def length(self, index: int) -> int:
        """Of one example, in tokens."""
        start, end = self._bounds(index)
        return end - start

    def lengths(self) -> Iterator[NDArray[np.int64]]:
        """Of all examples, in order and in blocks."""
        before = 0
        for ends in self.ends():
            yield np.diff(ends, prepend=before)
            before = int(ends[-1])

    def ends(self) -> Iterator[NDArray[np.int64]]:
        """Where each example ends among the tokens of all, in blocks."""
        for first in range(0, self._count, BLOCK_EXAMPLES):
            size = min(BLOCK_EXAMPLES, self._count - first) * _END.size
            yield np.frombuffer(self._read(self._ends.fileno(), size, MARK_BYTES + first * _END.size), "<i8")

    def contents(self, block_bytes: int) -> Iterator[tuple[str, bytes]]:
        """Both files, block by block, each with the ending of the file's name."""
        for ending, file in (("ends", self._ends), ("tokens", self._tokens)):
            size = os.fstat(file.fileno()).st_size
            for start in range(0, size, block_bytes):
                yield ending, self._read(file.fileno(), min(block_bytes, size - start), start)

    def _bounds(self, place: int) -> tuple[int, int]:
        if place == 0:
            return 0, _END.unpack(self._read(self._ends.fileno(), _END.size, MARK_BYTES))[0]
        content = self._read(self._ends.fileno(), 2 * _END.size, MARK_BYTES + (place - 1) * _END.size)
        start, end = np.frombuffer(content, "<i8").tolist()
        return start, end

    def _packed(self, start: int, end: int) -> NDArray[np.uint32]:
        return np.frombuffer(self._read(self._tokens.fileno(), 4 * (end - start), 4 * start), "<u4")

    @staticmethod
    def _read(descriptor: int, size: int, offset: int) -> bytes:
        parts = []
        while size:
            part = os.pread(descriptor, size, offset)
            if not part:
                raise OSError(f"the tokenized examples end at byte {offset}: the file was cut off")
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class ExampleLengths:
    """The lengths of examples, looked up as they are asked for.

    Args:
        examples: on the disk, or a list of them.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __getitem__(self, number: int, /) -> int:
        if isinstance(self._examples, Examples):
            return self._examples.length(number)
        return len(self._examples[number])


def longest(examples: Sequence[Example], count: int) -> list[Example]:
    """The longest of them, the longest last; of those that are as long the last ones."""
    if not isinstance(examples, Examples):
        return sorted(examples, key=len)[-count:]
    first = 0
    best: list[tuple[int, int]] = []
    for lengths in examples.lengths():
        found = np.argsort(lengths, kind="stable")[-count:]
        best = sorted([*best, *zip(lengths[found].tolist(), (first + found).tolist(), strict=True)])[-count:]
        first += len(lengths)
    return [examples[number] for _, number in best]


def _unpacked(packed: NDArray[np.uint32]) -> Example:
    return Example((packed & ~TRAINED).astype(np.int32), packed >= TRAINED)
