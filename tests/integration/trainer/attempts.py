"""Attempts that are trained in this process by the trainer's own main."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.trainer.__main__ import attend
from agent.trainer.reports import Reports
from tests.support.whole_lines import whole_lines

if TYPE_CHECKING:
    from pathlib import Path

QUESTIONS = [{"prompt": f"What is {number}? ", "completion": f"It is {number}."} for number in range(24)]


@dataclass
class Attempt:
    """One attempt's directory: write what it is to do, run it, look at what it said and left."""

    directory: Path
    model: Path

    @property
    def output(self) -> Path:
        return self.directory / "output"

    def dataset(self, rows: list[Any], name: str = "rows.jsonl") -> str:
        """Write rows (dicts, or lines as they are) to a file; its URI."""
        path = self.directory / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path.as_uri()

    def assign(self, *, rows: list[Any] | None = None, **changes: Any) -> None:
        """Write `assignment.json`: a quick LoRA training, changed by blocks of the spec (merged one level deep)."""
        spec: dict[str, Any] = {
            "base_model": {"provider": "local", "model_name": str(self.model)},
            "customization": {"method": "lora", "rank": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "precision": "fp32"},
            "datasets": [{"source": self.dataset(QUESTIONS if rows is None else rows)}],
            "tuning_parameters": {"learning_rate": 1e-2, "batch_size": 8, "num_epochs": 2, "seed": 7},
        }  # fmt: skip
        for block, value in changes.items():
            spec[block] = {**spec.get(block, {}), **value} if isinstance(value, dict) else value
        document = {"uid": "01JTEST", "job_id": "demo", "project": "default", "attempt": 1, "devices": [], "spec": spec}
        (self.directory / "assignment.json").write_text(json.dumps(document))

    def set_ranks(self, ranks: int) -> None:
        """Train with that many ranks on the CPU, as a stand-in inventory does."""
        path = self.directory / "assignment.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "world_size": ranks}))

    def fetched(self, *, name: str, commit: str, datasets: list[Path]) -> None:
        """Write `inputs.json` as an agent does that has fetched the model and these files."""
        document = {
            "model": {"path": str(self.model), "name": name, "commit": commit},
            "datasets": [{"path": str(path)} for path in datasets],
        }
        (self.directory / "inputs.json").write_text(json.dumps(document))

    def run(self) -> int:
        """Train in this process; the exit status."""
        return attend(self.directory, Reports(self.directory), own=lambda _document: None)

    @property
    def reports(self) -> list[dict[str, Any]]:
        """Every report that is JSON."""
        return [json.loads(line) for line in whole_lines(self.directory / "reports.jsonl")]

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [report for report in self.reports if report["kind"] == kind]

    @property
    def provenance(self) -> dict[str, Any]:
        return json.loads((self.output / "provenance.json").read_text())


def failed_with(attempt: Attempt) -> tuple[str, str]:
    """Run an attempt that must fail: its reason and message."""
    assert attempt.run() == 1
    last = attempt.reports[-1]
    assert last["kind"] == "failed"
    assert not attempt.said("finished")
    return last["reason"], last["message"]
