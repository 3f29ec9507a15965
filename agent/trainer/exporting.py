"""`export`: what is made beside what was trained, and the facts of it for the provenance."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.trainer import merging
from agent.trainer.model import DTYPES

if TYPE_CHECKING:
    from agent.trainer.assignment import Assignment
    from agent.trainer.corpus import Corpus
    from agent.trainer.model import AdaptedModel
    from agent.trainer.model_files import ModelFiles
    from agent.trainer.reports import Reports

MERGED, GGUF = "merged", "gguf"
_TYPES_OF = {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}
"""GGUF's word for a job's precision."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """What is needed of a training to export its result.

    Args:
        assignment: says what is wanted.
        files: the base model's.
        tokenizer: goes along with every model.
        corpus: examples to compare models on.
        reports: told what is being done.
    """

    assignment: Assignment
    files: ModelFiles
    tokenizer: Any
    corpus: Corpus
    reports: Reports

    @property
    def merges(self) -> bool:
        """Whether the base model with the adapter merged in is needed."""
        export = self.assignment.export
        return bool(self.assignment.customization.kind.peft_type) and (export.merged or export.gguf)

    def check(self, adapted: AdaptedModel) -> None:
        """Refuse before training what could not be exported after it.

        Raises:
            ConfigInvalid: says what, and the remedy.
        """
        if self.merges:
            merging.require_mergeable(adapted)

    def export(self, adapted: AdaptedModel, output: Path) -> dict[str, Any]:
        """Make everything that is wanted; the adapted model is used up.

        Args:
            adapted: after its last step.
            output: what is to be published; what was trained is in it already.

        Returns:
            Facts by what was made; empty: nothing is wanted.

        Raises:
            MergeInexact: the merged model is not what was trained.
            OSError: the disk is full.
        """
        facts: dict[str, Any] = {}
        if not (self.merges or self.assignment.export.gguf):
            return facts
        self.reports.phase("MERGING")
        with tempfile.TemporaryDirectory(dir=output.parent, prefix="merging-") as scratch:
            model = output
            if self.merges:
                model = (output if self.assignment.export.merged else Path(scratch)) / MERGED
                facts[MERGED] = self._merge(adapted, model, Path(scratch))
            if self.assignment.export.gguf:
                facts[GGUF] = self._write_gguf(model, output / GGUF)
        return facts

    def _write_gguf(self, model: Path, directory: Path) -> dict[str, Any]:
        from agent.trainer import gguf_file

        kind = self.assignment.export.gguf_type or _TYPES_OF[self.assignment.customization.precision]
        name = f"model-{kind}.gguf"
        facts = gguf_file.write(model, directory / name, kind=kind, name=self.assignment.job_id or "model")
        return {"file": f"{GGUF}/{name}", **facts}

    def _merge(self, adapted: AdaptedModel, directory: Path, scratch: Path) -> dict[str, Any]:
        device = adapted.device.torch_device
        seen = merging.probe(adapted, self.corpus.eval or self.corpus.train)
        model = merging.merge(adapted, scratch, DTYPES[self.assignment.customization.precision])
        merging.save(model, self.tokenizer, directory, use_cache=bool(self.files.config.get("use_cache", True)))
        del model
        facts = merging.check(directory, seen, device, compute_type=self.assignment.customization.compute_type)
        effect = facts["adapter_effect"]
        if effect is not None and facts["logit_difference"] > effect / 2:
            self.reports.warning(
                "MERGE_ROUNDS_AWAY",
                f"merged into {facts['dtype']} weights, much of what was trained is rounded away: the logits differ by "
                f"{facts['logit_difference']:.2g} of their spread, and the adapter moves them by {effect:.2g}; use the "
                "adapter itself, train longer, or ask for customization.precision fp32",
            )
        return facts
