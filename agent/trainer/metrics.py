"""The dense curves: a point per optimizer step, in `metrics` reports of many points (docs/trainer-contract.md)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.trainer.curves import Curves
    from agent.trainer.reports import Reports

EVERY_SECONDS = 5.0
MOST_POINTS = 500


class Point(NamedTuple):
    """One optimizer step; the names are those of the series."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float


TAGS = tuple(f"train/{name}" for name in Point._fields[1:])
"""What TensorBoard shows the series as."""


class MetricsRecorder:
    """Collects points and reports them together.

    Args:
        reports: where they go.
        total_steps: after that step the rest is reported at once.
        curves: gets every point, too; None: nobody wants them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        reports: Reports,
        *,
        total_steps: int,
        curves: Curves | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reports = reports
        self._curves = curves
        self._total_steps = total_steps
        self._clock = clock
        self._reported_at = clock()
        self._points: list[Point] = []

    def add(self, point: Point) -> None:
        """Take a step in; report what was collected if it is due."""
        self._points.append(point)
        if self._curves is not None:
            step, *values = point
            self._curves.add(step, dict(zip(TAGS, values, strict=True)))
        full = len(self._points) >= MOST_POINTS
        if full or point.step == self._total_steps or self._clock() - self._reported_at >= EVERY_SECONDS:
            self.report()

    def report(self) -> None:
        """Report what was collected."""
        if self._points:
            columns = zip(*self._points, strict=True)
            self._reports.append("metrics", series=dict(zip(Point._fields, map(list, columns), strict=True)))
            self._points.clear()
        self._reported_at = self._clock()

    def evaluated(self, step: int, loss: float) -> None:
        """Report the eval split's loss after so many steps; all points before it have been reported."""
        self._reports.append("metrics", series={"step": [step], "eval_loss": [round(loss, 6)]})
        if self._curves is not None:
            self._curves.add(step, {"eval/loss": loss})
