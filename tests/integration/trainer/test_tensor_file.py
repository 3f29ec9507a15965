"""A file written tensor by tensor is what safetensors itself would have written, as its reader sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from agent.trainer.tensor_file import Described, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {
    "a matrix": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "turned": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
    "a number": torch.tensor(3.5),
    "none": torch.zeros(0, 4),
    "\u00e9": torch.tensor([1, 255], dtype=torch.uint8),
}


def described(tensors: dict[str, torch.Tensor]) -> list[Described]:
    return [Described(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]


def test_what_was_written_is_read(tmp_path: Path):
    write_tensors(tmp_path / "file", described(TENSORS), iter(TENSORS.values()))
    found = load_file(tmp_path / "file")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_another_tensor_than_was_described_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="a number is not as described"):
        write_tensors(tmp_path / "file", described({"a number": torch.tensor(1.0)}), [torch.zeros(2)])
    with pytest.raises(ValueError, match="complex64 cannot be written"):
        write_tensors(tmp_path / "file", [Described("odd", torch.complex64, (1,))], [])
