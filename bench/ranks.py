"""Four ranks against one: the same effective batches, fp32, no dropout, so the same losses at each step.

one rank   ── effective batch ───────────────────────────────► loss, gradient, step
four ranks ── a quarter each ──► sum over the ranks ─────────► the same
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from bench.report import Line
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ranks"
RANKS = 4
BATCH_SIZE = 16
#: Not a multiple of the batch: the last step of an epoch has fewer examples than there are ranks.
ROWS = 98
EPOCHS = 5
LIMIT = 1e-3
_SECONDS = 600.0


def measure(directory: Path) -> list[Line]:
    """Trains twice, with the trainer's own program."""
    model = write_tiny_model(directory / "model")
    alone, together = (_losses(directory, model, ranks) for ranks in (1, RANKS))
    assert len(alone) == len(together) > 1, f"{len(alone)} steps by one rank, {len(together)} by {RANKS}"
    differences = [abs(one - other) / one for one, other in zip(alone, together, strict=True)]
    largest = max(differences)
    return [
        Line(
            NAME,
            f"losses of {RANKS} ranks, {len(alone)} steps of {BATCH_SIZE} examples, fp32, no dropout, gloo on CPU",
            f"largest relative difference at a step {largest:.1e}",
            f"at most {LIMIT:.0e} at each step",
            passed=largest <= LIMIT,
            reference=f"one rank: loss {alone[0]:.4f} at the first step, {alone[-1]:.4f} at the last",
            ratio=largest / LIMIT,
        )
    ]


def _losses(directory: Path, model: Path, ranks: int) -> list[float]:
    attempt = directory / f"ranks-{ranks}"
    attempt.mkdir()
    rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}." + " Yes, it is." * (n % 7)} for n in range(ROWS)]
    (attempt / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": {"method": "lora", "rank": 8, "precision": "fp32"},
        "datasets": [{"source": (attempt / "rows.jsonl").as_uri()}],
        "tuning_parameters": {"learning_rate": 5e-3, "batch_size": BATCH_SIZE, "num_epochs": EPOCHS, "seed": 3},
    }
    document = {"uid": "bench", "job_id": "ranks", "devices": [], "world_size": ranks, "spec": spec}
    (attempt / "assignment.json").write_text(json.dumps(document))
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    ran = subprocess.run(
        [sys.executable, "-m", "agent.trainer", str(attempt)],
        capture_output=True,
        env=environment,
        timeout=_SECONDS,
        check=False,
    )
    reports = [json.loads(line) for line in (attempt / "reports.jsonl").read_text().splitlines()]
    assert ran.returncode == 0, f"{ranks} ranks: {reports[-1].get('message', ran.stderr.decode()[-300:])}"
    return [loss for report in reports if report["kind"] == "metrics" for loss in report["series"]["loss"]]
