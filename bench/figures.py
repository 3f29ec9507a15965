"""Figures of many measurements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def spread_ms(values: Sequence[float]) -> str:
    """Median, 99th percentile and largest of seconds, in words."""
    half, most, all_of = (percentile(values, percent) * 1e3 for percent in (50, 99, 100))
    return f"p50 {half:.1f} ms, p99 {most:.1f} ms, largest {all_of:.1f} ms"
