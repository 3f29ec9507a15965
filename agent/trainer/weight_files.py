"""Whether the files of a model's weights are whole, by their headers: before torch is imported, and at any size."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import ModelFormatUnsupported, NotYetSupported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

INDEX = "model.safetensors.index.json"
MOST_HEADER_BYTES = 100 << 20
"""As the safetensors library has it."""
_FLOATS = frozenset({"BF16", "F16", "F32", "F64"})
_LFS = b"version https://git-lfs"
_ANEW = "fetch the model anew"


def require_whole(directory: Path, weights: Sequence[Path]) -> int:
    """Look at every header, and at the index of a model in several files; how many tensors they name.

    An index may name these files only: transformers would follow it to another model's.

    Args:
        directory: the model's.
        weights: its files.

    Raises:
        ModelFormatUnsupported: a file is missing, cut off or something else.
        NotYetSupported: its weights are no floating-point numbers.
    """
    named = _named(directory / INDEX) if (directory / INDEX).exists() else set()
    missing = sorted(named - {path.name for path in weights})
    if missing:
        raise ModelFormatUnsupported(
            f"base_model.model_name: {INDEX} names {missing[0]}, which is not there ({len(missing)} of {len(named)} "
            f"files are missing); {_ANEW}"
        )
    headers = [_header(path) for path in weights]
    for path, tensors in zip(weights, headers, strict=True):
        _require_floats(path, tensors)
    return sum(map(len, headers))


def _named(index: Path) -> set[str]:
    try:
        return set(map(str, json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFormatUnsupported(f"base_model.model_name: {index.name} is no index of weights; {_ANEW}") from error


def _header(path: Path) -> Mapping[str, Any]:
    """The tensors of a file by name, after the file was found to be as long as they say."""
    where = f"base_model.model_name: {path.name}"
    with path.open("rb") as stream:
        first = stream.read(len(_LFS))
        if first == _LFS:
            raise ModelFormatUnsupported(
                f"{where} is a pointer of Git LFS and not the file itself: get that with `git lfs pull`"
            )
        length = struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else 0
        stream.seek(8)
        content = stream.read(length) if 0 < length <= MOST_HEADER_BYTES else b""
        size = os.fstat(stream.fileno()).st_size
    try:
        header = json.loads(content)
        tensors = {name: each for name, each in header.items() if name != "__metadata__"}
        end = 8 + length + max((each["data_offsets"][1] for each in tensors.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFormatUnsupported(f"{where} is no safetensors file, or was cut off; {_ANEW}") from error
    if size < end:
        raise ModelFormatUnsupported(f"{where} was cut off: it has {size} of {end} bytes; {_ANEW}")
    return tensors


def _require_floats(path: Path, tensors: Mapping[str, Any]) -> None:
    """Weights of whole numbers would be taken for what they are not, in silence."""
    for name, each in tensors.items():
        if name.endswith(".weight") and len(each.get("shape", ())) > 1 and each.get("dtype") not in _FLOATS:
            raise NotYetSupported(
                f"base_model.model_name: {name} in {path.name} is {each.get('dtype')}: the model is quantized; name "
                "its full-precision weights"
            )
