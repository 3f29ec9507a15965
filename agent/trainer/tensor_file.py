"""Writes a safetensors file tensor by tensor, so that no more than one of them need be in memory.

Safetensors' own writer wants all of them at once. The format: eight bytes of the header's length, the header as JSON
(name -> type, shape, where the bytes are), the bytes one after the other, little-endian.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_WORDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8"}
_ALIGNED = 8


class Described(NamedTuple):
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def write_tensors(path: Path, described: Sequence[Described], tensors: Iterable[torch.Tensor | None]) -> None:
    """Write tensors in the order in which they were described.

    Raises:
        OSError: the disk refused.
        ValueError: a tensor is not as described, or has a type that this does not know.
    """
    if sys.byteorder != "little":
        raise ValueError("tensors are written on little-endian machines only")
    header, start = {}, 0
    for each in described:
        end = start + torch.Size(each.shape).numel() * each.dtype.itemsize
        header[each.name] = {"dtype": _word(each), "shape": list(each.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for each, tensor in zip(described, tensors, strict=True):
            if tensor is None or tensor.dtype != each.dtype or tuple(tensor.shape) != each.shape:
                raise ValueError(f"{each.name} is not as described")
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _word(described: Described) -> str:
    try:
        return _WORDS[described.dtype]
    except KeyError:
        raise ValueError(f"{described.name}: {described.dtype} cannot be written") from None
