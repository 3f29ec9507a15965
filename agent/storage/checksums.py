"""Checksums that a store keeps of its objects, as far as Python computes them at the speed of a disk.

CRC32C and CRC64/NVME are left out: in Python they would take longer than the download.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a whole content: `kind` is CRC32, SHA1 or SHA256."""

    kind: str
    value: bytes

    def fits(self, path: Path) -> bool:
        """Whether a file has it. Reads all of it."""
        crc, digest = 0, None if self.kind == "CRC32" else hashlib.new(self.kind, usedforsecurity=False)
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                if digest is None:
                    crc = zlib.crc32(block, crc)
                else:
                    digest.update(block)
        return self.value == (crc.to_bytes(4, "big") if digest is None else digest.digest())


def of_whole(head: Mapping[str, object]) -> Checksum | None:
    """The checksum of the whole object in the answer to a HEAD with ChecksumMode; None: it has none that we compute.

    One made of the parts' checksums (`COMPOSITE`, its value ends in `-` and the number of parts) says nothing of the
    whole without them. Not every store says which it is: of an object in parts, whose ETag has their number, only one
    that is said to be of the whole is believed.
    """
    in_parts = "-" in str(head.get("ETag", ""))
    if head.get("ChecksumType") == "COMPOSITE" or (in_parts and head.get("ChecksumType") != "FULL_OBJECT"):
        return None
    for kind in ("SHA256", "SHA1", "CRC32"):
        told = head.get(f"Checksum{kind}")
        if isinstance(told, str) and "-" not in told:
            try:
                return Checksum(kind, base64.b64decode(told, validate=True))
            except ValueError:
                return None
    return None
