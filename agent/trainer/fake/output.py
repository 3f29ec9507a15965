"""The fake's output: small, but real files, so that everything behind a trainer has something to move and to verify."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.checkpoint import Checkpoint

BLOCK_BYTES = 1 << 20
CHECKPOINT_BYTES = 4096


def write_output(directory: str, document: Mapping[str, Any], *, weights_bytes: int) -> None:
    """An adapter's four files, fsynced. The weights are a valid safetensors file with one tensor of bytes."""
    os.makedirs(directory, exist_ok=True)  # noqa: PTH103 - starts without pathlib
    spec = document["spec"]
    base_model = spec.get("base_model", {}).get("model_name", "")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model, "r": 8}
    facts = {"format_version": 1, "job_id": document.get("job_id"), "fake": True, "spec": spec}
    _write(directory + "/adapter_config.json", [_json(config)])
    _write(directory + "/adapter_model.safetensors", _safetensors(weights_bytes))
    _write(directory + "/README.md", [b"# A fake adapter\n\nThe fake trainer wrote it; it has learnt nothing.\n"])
    _write(directory + "/provenance.json", [_json(facts)])
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_checkpoint(attempt_directory: str, step: int) -> Checkpoint:
    """A whole checkpoint of a state that nobody can go on from; two are kept."""
    from pathlib import Path

    from agent import checkpoint

    writers = {
        "weights.safetensors": lambda path: _write(str(path), _safetensors(CHECKPOINT_BYTES)),
        "state.json": lambda path: _write(str(path), [_json({"fake": True, "identity": "", "step": step})]),
    }
    return checkpoint.save(Path(attempt_directory, checkpoint.DIRECTORY), step, writers, keep=checkpoint.KEPT)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _safetensors(weights_bytes: int) -> list[bytes]:
    header = json.dumps(
        {"fake": {"dtype": "U8", "shape": [weights_bytes], "data_offsets": [0, weights_bytes]}}
    ).encode()
    block = bytes(range(256)) * (BLOCK_BYTES // 256)
    whole, rest = divmod(weights_bytes, BLOCK_BYTES)
    return [len(header).to_bytes(8, "little"), header, *([block] * whole), block[:rest]]


def _write(path: str, parts: list[bytes]) -> None:
    with open(path, "wb") as file:  # noqa: PTH123
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
