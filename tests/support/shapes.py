"""A model directory's shape, read as a node reads it."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from typing import TYPE_CHECKING

from trainplane.backends.model_shape import ModelShape

if TYPE_CHECKING:
    from pathlib import Path


def shape_of(directory: Path) -> ModelShape:
    """By `config.json` and the headers of its safetensors files."""
    counted: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        header.pop("__metadata__", None)
        counted.update((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), tuple(t["shape"])) for name, t in header.items())
    config = json.loads((directory / "config.json").read_text())
    return ModelShape.of(config, [(pattern, shape, count) for (pattern, shape), count in counted.items()])
