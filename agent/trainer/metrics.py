"""The dense curves: a point per optimizer step, in `metrics` reports of many points (docs/trainer-contract.md)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.trainer.reports import Reports
    from agent.trainer.train import Step

EVERY_SECONDS = 5.0
MOST_POINTS = 500
NAMES = ("step", "loss", "learning_rate", "grad_norm", "tokens_per_second")


class MetricsRecorder:
    """Collects points and reports them together.

    Args:
        reports: where they go.
        total_steps: after that step the rest is reported at once.
        clock: monotonic seconds.
    """

    def __init__(self, reports: Reports, *, total_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._reports = reports
        self._total_steps = total_steps
        self._clock = clock
        self._reported_at = clock()
        self._series: dict[str, list[float]] = {name: [] for name in NAMES}

    def on_step(self, step: Step) -> None:
        """Take a step in; report what was collected if it is due."""
        values = (
            step.number,
            round(step.loss, 6),
            step.learning_rate,
            round(step.grad_norm, 6),
            round(step.tokens / max(step.seconds, 1e-9), 1),
        )
        for series, value in zip(self._series.values(), values, strict=True):
            series.append(value)
        full = len(self._series["step"]) >= MOST_POINTS
        if full or step.number == self._total_steps or self._clock() - self._reported_at >= EVERY_SECONDS:
            self._reports.append("metrics", series=self._series)
            self._series = {name: [] for name in NAMES}
            self._reported_at = self._clock()
