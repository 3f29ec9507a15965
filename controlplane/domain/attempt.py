"""One try of a job. Its number fences stale news; its devices stay charged until its node says that it is gone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AttemptState(StrEnum):
    """Where an attempt stands between the control plane and its node."""

    ASSIGNED = "ASSIGNED"
    """Written down; its node has not claimed it."""
    CLAIMED = "CLAIMED"
    """Its node has the spec: processes may live."""
    ENDED = "ENDED"
    """Its node said that nothing of it is left; or it was never claimed."""
    LOST = "LOST"
    """Given up by us; processes may still live, so its devices stay charged."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job on one node. Of a gang (ADR 0032) there is one for each of its nodes, all of one number."""

    job_uid: str
    number: int
    node: str
    devices: tuple[int, ...]
    cpus: int
    memory_bytes: int
    state: AttemptState
    assign_time_us: int
    claim_time_us: int = 0
    start_time_us: int = 0
    end_time_us: int = 0
    reason: str = ""
    manifest_digest: str = ""
    """With the commit grant, irrevocably."""
    others: tuple[str, ...] = ()
    """Of a gang's first node: the other nodes, in their order. Else empty."""
    meeting: str = ""
    """Of a gang's first node: `host:port` where the ranks meet, as that node said when it claimed."""
    index: int = 0
    """Which of a gang's nodes it is; 0, the first, alone reports what is trained, and commits."""

    @property
    def gang(self) -> bool:
        """Whether several nodes try together."""
        return bool(self.index or self.others)

    @property
    def charged(self) -> bool:
        """Whether its devices, CPUs and memory count as taken."""
        return self.state is not AttemptState.ENDED


@dataclass(frozen=True, slots=True)
class AttemptNode:
    """What is kept per (attempt, node), of a gang for each of its nodes."""

    job_uid: str
    number: int
    node: str
    claim_nonce: bytes = b""
    applied: int = 0
    """Every report up to this sequence is recorded."""
