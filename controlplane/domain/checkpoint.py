"""The state of a training after a step, as its trainer said that it is whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that lies on a node."""

    job_uid: str
    attempt: int
    step: int
    """Optimizer steps made before it was written."""
    node: str
    size_bytes: int
    manifest_digest: str
    create_time_us: int
