"""What a succeeded job published, and how much of its logs is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published file."""

    job_uid: str
    path: str
    uri: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Log:
    """What is stored of one rank's log of one attempt."""

    job_uid: str
    attempt: int
    rank: int
    size_bytes: int
