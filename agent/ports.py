"""The control plane as the agent sees it: five questions, each answered or not. Protobuf stops at the adapter."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.devices import Inventory
    from agent.plan import Wanted
    from agent.run import AttemptKey, Stage


class NoAnswerError(Exception):
    """No answer in time, or nobody there: whether the request took effect is unknown. Ask the same again."""


class SupersededError(Exception):
    """A newer agent of the same node exists. This one must exit, leaving its trainers alone."""


class Answer(enum.Enum):
    """What a claim or commit request can be told."""

    GRANTED = "GRANTED"
    REFUSED = "REFUSED"
    NOT_NOW = "NOT_NOW"


@dataclass(frozen=True, slots=True)
class AttemptState:
    """One attempt, as it is on the node."""

    key: AttemptKey
    stage: Stage
    pid: int
    reports: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node's whole actual state."""

    inventory: Inventory
    not_ready_reason: str
    attempts: tuple[AttemptState, ...]


@dataclass(frozen=True, slots=True)
class SyncAnswer:
    """What is wanted of the node. `wanted` is None where nothing may be concluded."""

    wanted: Wanted | None
    incarnation: int
    generation: int
    next_sync_seconds: float


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """`assignment` and `sealed_secrets` come with GRANTED only; `applied` is the reports' watermark."""

    answer: Answer
    reason: str = ""
    assignment: bytes = b""
    sealed_secrets: bytes = field(default=b"", repr=False)
    applied: int = 0


@dataclass(frozen=True, slots=True)
class CommitAnswer:
    """Whether this attempt publishes."""

    answer: Answer
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """Consecutive lines of one attempt's report file; `first_sequence` is the first one's number, from 1."""

    key: AttemptKey
    first_sequence: int
    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Watermark:
    """Every report up to `applied` is recorded. Stale: no further one is wanted."""

    applied: int
    stale: bool


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """How much of a log is stored. `enough`: send no more of it. `size_bytes` None: not now."""

    size_bytes: int | None
    enough: bool = False


class ProbeOutcome(enum.Enum):
    """What a look at a job's model found."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """One look of a preflight's."""

    check: str
    outcome: ProbeOutcome
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The outcome; with FAILED the reason why the job would fail for certain, and the words for people."""

    outcome: ProbeOutcome
    reason: str = ""
    message: str = ""
    findings: tuple[ProbeFinding, ...] = ()
    """Of a preflight."""
    facts: str = ""
    """What was seen of the model, and for a preflight of datasets, as JSON."""


class ControlPlane(Protocol):
    """Every question has a deadline of some seconds, raises NoAnswerError after it, and may be asked again."""

    async def sync(self, state: NodeState) -> SyncAnswer:
        """Tell the whole state, hear what is wanted.

        Raises:
            SupersededError: a newer agent of the same node exists.
        """
        ...

    async def claim(self, key: AttemptKey, nonce: bytes, public_key: bytes, rendezvous_port: int = 0) -> ClaimAnswer:
        """Ask for what the attempt needs to run; the port is where a gang's ranks could meet here, 0: nowhere."""
        ...

    async def report(self, batch: Sequence[Lines]) -> Mapping[AttemptKey, Watermark] | None:
        """Send reports; the answer, given after they are recorded, is the truth. None: not now.

        Raises:
            SupersededError: a newer agent of the same node exists.
        """
        ...

    async def commit(self, key: AttemptKey, digest: str) -> CommitAnswer:
        """Ask to be the one attempt that publishes."""
        ...

    async def send_log(self, key: AttemptKey, rank: int, offset_bytes: int, data: bytes) -> LogAnswer:
        """Send bytes of a rank's log. Without bytes: ask how much is stored."""
        ...
