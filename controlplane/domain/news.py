"""What can happen to a job: the columns of the lifecycle's table.

News of an attempt carry its number; stale ones are ignored by `lifecycle.advance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controlplane.domain.job import Progress


@dataclass(frozen=True, slots=True)
class Cancel:
    """A user wants it ended."""

    waits: bool = False
    """RECOVERING: processes of its last attempt are left on a node, and CANCELLED is said when they are gone."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A user wants it to give up its devices and go on later."""


@dataclass(frozen=True, slots=True)
class Resume:
    """A user wants a paused one to go on."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """The dispatcher found it a node: a new attempt begins."""

    number: int
    node: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It can never run here; found before a device was charged."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Requeued:
    """Its wait after a lost or failed attempt is over."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Its model is on its node; its trainer's process does not run yet."""

    attempt: int
    base_model_commit: str


@dataclass(frozen=True, slots=True)
class Started:
    """Its trainer's process runs."""

    attempt: int


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """Its trainer does something else now."""

    attempt: int
    phase: str
    message: str = ""
    """How far it is with it, for people; empty: nothing to say."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """Its trainer got on."""

    attempt: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class Warned:
    """Its trainer has something that the user should know."""

    attempt: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """Its trainer completed a checkpoint; it is on its node."""

    attempt: int
    step: int
    size_bytes: int
    manifest_digest: str
    oldest_step: int
    """Those of earlier steps are gone; 0: not said."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Its trainer's output is complete, not yet published."""

    attempt: int


@dataclass(frozen=True, slots=True)
class CommitGranted:
    """Its attempt is the one that publishes."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Published:
    """Its output is at its place, whole and verified."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Its attempt failed; no process is left."""

    attempt: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Its attempt was stopped as asked, or by its node; no process is left."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Its attempt is given up: its node is silent, or no longer knows it."""

    attempt: int
    reason: str
    message: str


Command = Cancel | Pause | Resume
AttemptNews = (
    Fetched
    | Started
    | PhaseChanged
    | Progressed
    | Warned
    | Checkpointed
    | Finished
    | CommitGranted
    | Published
    | Failed
    | Stopped
    | Lost
)
News = Command | Assigned | Refused | Requeued | AttemptNews

COMMANDS = (Cancel, Pause, Resume)
ATTEMPT_NEWS = (
    Fetched,
    Started,
    PhaseChanged,
    Progressed,
    Warned,
    Checkpointed,
    Finished,
    CommitGranted,
    Published,
    Failed,
    Stopped,
    Lost,
)
KINDS = (*COMMANDS, Assigned, Refused, Requeued, *ATTEMPT_NEWS)
