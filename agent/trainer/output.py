"""Writes `output/`: the adapter in PEFT's own format, its model card, its provenance, all of it fsynced."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from agent.trainer.card import model_card

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.trainer.model import AdaptedModel


def write_output(directory: Path, adapted: AdaptedModel, facts: Mapping[str, Any]) -> None:
    """Write everything and fsync it. What an earlier try left in the directory is written over.

    Raises:
        OSError: the disk is full or broken.
    """
    # Embeddings are never saved along: LoRA does not change them, and the base model has them.
    adapted.model.save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)
    (directory / "README.md").write_text(model_card(facts), encoding="utf-8")
    document = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    (directory / "provenance.json").write_text(document + "\n", encoding="utf-8")
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Fsync every file of a flat directory, it and its parent."""
    for path in (*sorted(directory.iterdir()), directory, directory.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
