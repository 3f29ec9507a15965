"""The dense curves as TensorBoard's event files: one file an attempt, all of a job's in one directory.

The format is TensorFlow's: records of a length, its checksum, a serialized `Event` and its checksum. It is written by
hand, for the libraries that write it cost half a second of every start, and the format has not changed since 2016; the
tests read it with TensorBoard's own reader. A file begins with a session's start at the step after the one that the
attempt went on from: there TensorBoard drops what earlier attempts had made beyond it, and the curves go on.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DIRECTORY = "tensorboard"
_POLYNOMIAL = 0x82F63B78
"""CRC-32C, reflected (Castagnoli; RFC 3720)."""


class Curves:
    """Writer of one attempt's file; what was written is there for a reader at once.

    Args:
        directory: the attempt's.
        attempt: its number.
        first_step: of its steps, from 1.
    """

    def __init__(self, directory: Path, attempt: int, *, first_step: int) -> None:
        folder = directory / DIRECTORY
        folder.mkdir(exist_ok=True)
        self.path = folder / f"events.out.tfevents.{attempt:06}"
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._write(_field(3, b"brain.Event:2"))
        self._write(_varint_field(2, first_step) + _field(7, _varint_field(1, 1)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a step's values, by tag.

        Raises:
            OSError: the disk is full.
        """
        self._write(_varint_field(2, step) + _field(5, b"".join(_value(*each) for each in values.items())))

    def _write(self, event: bytes) -> None:
        record = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(record))
        os.write(self._descriptor, length + _checksum(length) + record + _checksum(record))


def _value(tag: str, value: float) -> bytes:
    return _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint_field(number: int, value: int) -> bytes:
    return bytes([number << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    # Masked, as the format has it: a checksum of what holds checksums would otherwise be weak.
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
