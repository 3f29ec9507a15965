"""Dense series of what was trained: how they are kept, and how they are made small enough to be shown.

chunks of an attempt ─┬─► without the steps that a later attempt trained again ──► a curve for each name ──► thinned
chunks of the next  ──┘
"""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_POINTS = 500
"""Of a chunk."""
MAX_SERIES = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """Some hundred consecutive points, as they were reported."""

    steps: Sequence[int]
    """Increasing, at least one."""
    series: Mapping[str, Sequence[float]]
    """By name, a value for each step; NaN: none."""


@dataclass(frozen=True, slots=True)
class MetricChunk:
    """The same as it is stored."""

    job_uid: str
    attempt: int
    sequence: int
    """The report's: a chunk is stored once."""
    first_step: int
    last_step: int
    points: int
    series: str
    """JSON: `step` and each name, lists of equal length; null: no value."""


def chunk(measured: Measured, *, job_uid: str, attempt: int, sequence: int) -> MetricChunk:
    """What is stored of a report's points."""
    shown: dict[str, list[int] | list[float | None]] = {"step": list(measured.steps)}
    for name, values in measured.series.items():
        shown[name] = [None if isnan(value) else value for value in values]
    text = json.dumps(shown, separators=(",", ":"), allow_nan=False)
    first, last = measured.steps[0], measured.steps[-1]
    return MetricChunk(job_uid, attempt, sequence, first, last, len(measured.steps), text)


@dataclass(slots=True)
class Curve:
    """One series; arrays, because a long job has a million points."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.steps)


class Curves:
    """Chunks put together, in the order of attempts and of their reports."""

    def __init__(self, first_steps: Mapping[int, int]) -> None:
        """Begins with the first step that each attempt reported."""
        self.by_name: dict[str, Curve] = {}
        self._ends = _ends(first_steps)

    def add(self, chunks: Iterable[MetricChunk]) -> None:
        """Takes the next chunks; points of steps that a later attempt has, or that came already, are left out."""
        for each in chunks:
            end = self._ends.get(each.attempt)
            if end is not None and each.first_step >= end:
                continue
            series = json.loads(each.series)
            steps = series.pop("step")
            for name, values in series.items():
                curve = self.by_name.setdefault(name, Curve())
                last = curve.steps[-1] if curve.steps else -1
                for step, value in zip(steps, values, strict=True):
                    if value is not None and step > last and (end is None or step < end):
                        curve.steps.append(step)
                        curve.values.append(value)


def _ends(first_steps: Mapping[int, int]) -> dict[int, int]:
    """For each attempt but the last: the first step that a later one trained again."""
    ends: dict[int, int] = {}
    least: int | None = None
    for attempt in sorted(first_steps, reverse=True):
        if least is not None:
            ends[attempt] = least
        least = first_steps[attempt] if least is None else min(least, first_steps[attempt])
    return ends


def thinned(curve: Curve, most: int) -> Curve:
    """The curve with at most so many points, by min and max of equal parts.

    The first and the last stay. What lies between is divided into parts of equally many points; each keeps its least
    and its greatest value, so that no spike is lost, as one is by taking every n-th. (Largest-Triangle-Three-Buckets
    keeps shapes better, and spikes worse: a loss that explodes for one step is what people look for.)

    Args:
        curve: increasing steps.
        most: at least 4.
    """
    count = len(curve)
    if count <= most:
        return curve
    parts = (most - 2) // 2
    inner = count - 2
    kept = {0, count - 1}
    for part in range(parts):
        begin, end = 1 + part * inner // parts, 1 + (part + 1) * inner // parts
        values = curve.values[begin:end]
        kept.add(begin + values.index(min(values)))
        kept.add(begin + values.index(max(values)))
    at = sorted(kept)
    return Curve(array("q", (curve.steps[i] for i in at)), array("d", (curve.values[i] for i in at)))
