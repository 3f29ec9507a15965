"""The one JetStream stream of trainplane, as data.

It holds public events only: SQL is the truth, and the relay fills a lost stream again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from trainplane.wire import subjects


@dataclass(frozen=True, slots=True)
class Stream:
    """A limits stream, discarding old messages; `allow_atomic` lets the relay publish in batches."""

    name: str
    subjects: tuple[str, ...]
    max_age: timedelta
    max_bytes: int
    duplicate_window: timedelta
    replicas: int = 1


EVENTS = Stream(
    name="TRAINPLANE_EVENTS",
    subjects=(subjects.events(),),
    max_age=timedelta(days=30),
    max_bytes=8 * 1024**3,
    duplicate_window=timedelta(minutes=2),
)
