"""What agents ask and what they are answered, apart from sync (`domain.node.Sync` and `Wanted`).

The node in each of these comes from the subject on which it was asked, which the bus enforces; nothing else here is to
be believed before it is checked. `NOT_NOW` always means: nothing may be concluded, ask again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from controlplane.domain.metrics import Measured
    from controlplane.domain.news import AttemptNews
    from controlplane.domain.node import AttemptRef, Sync, Wanted


class Grant(StrEnum):
    """The answer to a claim, or to the wish to publish."""

    GRANTED = "GRANTED"
    REFUSED = "REFUSED"
    """For ever."""
    NOT_NOW = "NOT_NOW"


@dataclass(frozen=True, slots=True)
class ClaimAsked:
    """A node wants what an attempt needs to run. The same nonce gets the same answer."""

    node: str
    incarnation: int
    attempt: AttemptRef
    nonce: bytes
    public_key: bytes
    """X25519; the secrets are sealed to it."""
    rendezvous_port: int = 0
    """Free on the node: where ranks meet if it is a gang's first; 0: it has none."""


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """With GRANTED: what to run, and how far the attempt's reports are recorded."""

    outcome: Grant
    reason: str = ""
    assignment_json: bytes = b""
    sealed_secrets: bytes = b""
    applied: int = 0


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that an attempt published."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Output:
    """What an attempt says it published, and where."""

    output_uri: str
    manifest_digest: str
    files: tuple[OutputFile, ...]


@dataclass(slots=True)
class Report:
    """One line of an attempt's report file. Not frozen, though nobody changes one: it is made 5,000 times a second."""

    time_us: int
    """By the writer's clock: shown to people, never compared."""
    news: AttemptNews | None
    """None: it changes no job, or could not be read. It counts."""
    output: Output | None = None
    """With the news `Published`."""
    measured: Measured | None = None
    """Instead of news."""

    @property
    def unreadable(self) -> bool:
        """Whether nothing could be made of it."""
        return self.news is None and self.measured is None


@dataclass(frozen=True, slots=True)
class AttemptReports:
    """Consecutive reports of one attempt."""

    attempt: AttemptRef
    first_sequence: int
    reports: list[Report]


@dataclass(frozen=True, slots=True)
class ReportBatch:
    """What happened on a node, in order by attempt. An attempt may occur more than once."""

    node: str
    incarnation: int
    attempts: list[AttemptReports]


class Intake(StrEnum):
    """The answer to reports."""

    APPLIED = "APPLIED"
    NOT_NOW = "NOT_NOW"
    SUPERSEDED = "SUPERSEDED"
    """A newer agent of the same name exists."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far an attempt's reports are recorded."""

    attempt: AttemptRef
    applied: int
    stale: bool = False
    """The attempt is unknown or over: its further reports need not be sent."""


@dataclass(frozen=True, slots=True)
class ReportAnswer:
    """With APPLIED: one watermark for each attempt of the batch, durable."""

    outcome: Intake
    watermarks: tuple[Watermark, ...] = ()


@dataclass(frozen=True, slots=True)
class CommitAsked:
    """A node's attempt wants to be the one that publishes."""

    node: str
    incarnation: int
    attempt: AttemptRef
    manifest_digest: str


@dataclass(frozen=True, slots=True)
class CommitAnswer:
    """GRANTED at most once for a job, and for one manifest."""

    outcome: Grant
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """The next bytes of a trainer's log; repeats are harmless."""

    node: str
    incarnation: int
    attempt: AttemptRef
    rank: int
    offset_bytes: int
    data: bytes


class Kept(StrEnum):
    """The answer to a log chunk."""

    STORED = "STORED"
    ENOUGH = "ENOUGH"
    """Full, or of no attempt that is known: send no more of it."""
    NOT_NOW = "NOT_NOW"


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """How much of this log is stored."""

    outcome: Kept
    size_bytes: int = 0


class NodeHandlers(Protocol):
    """What answers agents. Each may raise StoreUnavailable or OutcomeUnknown: the agent is told NOT_NOW and repeats."""

    async def sync(self, said: Sync, /) -> Wanted:
        """Records a node's state and answers what is wanted of it."""
        ...

    async def claim(self, asked: ClaimAsked, /) -> ClaimAnswer:
        """Hands an attempt to its node."""
        ...

    async def report(self, batch: ReportBatch, /) -> ReportAnswer:
        """Records what happened; answers after the commit."""
        ...

    async def commit(self, asked: CommitAsked, /) -> CommitAnswer:
        """Decides who publishes."""
        ...

    async def log(self, chunk: LogChunk, /) -> LogAnswer:
        """Keeps a piece of a log."""
        ...
