"""Writes `output/`: the adapter in PEFT's own format or a whole model, its card, its provenance, all of it fsynced."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from agent.trainer import audit
from agent.trainer.card import model_card
from agent.trainer.model import logged_warnings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from agent.trainer.model import AdaptedModel


class Output:
    """The attempt's result. Make it when the adapter is fresh: PiSSA's and OLoRA's result is the way from there.

    Those two take their part out of the base weights, so the adapter as trained would need a changed base model; what
    is written is the difference, as plain LoRA of twice the rank, which every LoRA reader loads.

    Args:
        directory: where it goes; what an earlier try left there is written over.
        adapted: the model before its first step.
        tokenizer: the model's; it goes along with a whole model.
        dtype: what a whole model's weights are written in.
    """

    def __init__(self, directory: Path, adapted: AdaptedModel, tokenizer: Any, dtype: torch.dtype) -> None:
        self._directory = directory
        self._adapted = adapted
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._beginning = None
        if adapted.moves_base:
            self._beginning = {
                name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(adapted.model).items()
            }

    @property
    def directory(self) -> Path:
        """Where it goes."""
        return self._directory

    def save(self) -> None:
        """Write what was trained.

        Raises:
            OSError: the disk is full or broken.
        """
        with logged_warnings():
            # A prompt's encoder is computed once more and its result is saved: without its dropout.
            self._adapted.model.eval()
            if self._adapted.is_whole:
                self._save_model()
            else:
                self._save_adapter()

    def keep(self, path: Path) -> None:
        """Publish a file, in a directory of the name that it is in.

        Raises:
            OSError: the disk is full or broken.
        """
        target = self._directory / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)

    def describe(self, facts: Mapping[str, Any], audited: Mapping[str, Any]) -> None:
        """Write the rest, and fsync everything.

        Args:
            facts: for `provenance.json` and the model card.
            audited: for `audit.json`.

        Raises:
            OSError: the disk is full or broken.
        """
        (self._directory / "README.md").write_text(model_card(facts), encoding="utf-8")
        document = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
        (self._directory / "provenance.json").write_text(document + "\n", encoding="utf-8")
        audit.store(audited, self._directory)
        sync_directory(self._directory)

    def _save_model(self) -> None:
        """A directory that `from_pretrained` takes; weights in the job's precision, as the base model's were."""
        model = self._adapted.model.to(self._dtype)
        model.save_pretrained(str(self._directory))
        self._tokenizer.save_pretrained(str(self._directory))

    def _save_adapter(self) -> None:
        # Embeddings are never saved along: LoRA does not change them, and the base model has them.
        save = partial(self._adapted.model.save_pretrained, str(self._directory), save_embedding_layers=False)
        if self._beginning is None:
            save()
            return
        with tempfile.TemporaryDirectory(dir=self._directory.parent) as initial:
            save_file(self._beginning, Path(initial) / "adapter_model.safetensors")
            save(path_initial_model_for_weight_conversion=initial)


def sync_directory(directory: Path) -> None:
    """Fsync everything in a directory, it and its parent."""
    for path in (*sorted(directory.rglob("*")), directory, directory.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
