"""A job, as far as the rules need it, and the records around it.

`Job` is the small part that every piece of news may change; the spec, which never changes, stands beside it in
`JobRecord`, so that a report about progress does not read a kilobyte of JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from controlplane.domain.delivery import WEBHOOK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controlplane.domain.attempt import Attempt
    from controlplane.domain.delivery import Endpoint


class State(StrEnum):
    """How a job stands; the edges between them are `lifecycle.EDGES`."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    RECOVERING = "RECOVERING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
#: States in which the current attempt's news count.
LIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSING, State.CANCELLING})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is."""

    step: int
    total_steps: int
    epoch: float = 0.0
    loss: float = 0.0
    learning_rate: float = 0.0
    grad_norm: float = 0.0
    tokens_per_second: float = 0.0
    gpu_memory_bytes: float = 0.0
    estimated_end_time_us: int = 0
    """0: unknown."""
    eval_loss_before: float | None = None
    """Per trained token of the eval split; None: there is no final evaluation yet, or no eval split."""
    eval_loss: float | None = None
    """The same after training."""


@dataclass(frozen=True, slots=True)
class Job:
    """The part of a job that news change.

    `attempt` is the newest attempt's number, also when it is over; whether it is live follows from `state`.
    """

    uid: str
    project: str
    job_id: str
    state: State
    phase: str = ""
    reason: str = ""
    message: str = ""
    attempt: int = 0
    failures: int = 0
    """Attempts that failed by themselves, against `max_attempts`."""
    losses: int = 0
    """Attempts that the infrastructure lost, against `retry.MAX_LOSSES`."""
    max_attempts: int = 3
    granted: bool = False
    """The current attempt has the commit: the job can only succeed, or fail with ARTIFACTS_LOST."""
    pause_wanted: bool = False
    not_before_us: int = 0
    """RECOVERING: when it may be queued again."""
    last_sequence: int = 0
    progress: Progress | None = None
    start_time_us: int = 0
    update_time_us: int = 0
    end_time_us: int = 0

    @property
    def terminal(self) -> bool:
        """Whether nothing can change any more."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a job needs of a node, all of it or none."""

    gpus: int = 0
    gpu_type: str = ""
    """Words that all occur in the device's name; empty: any."""
    cpus: int = 1
    memory_bytes: int = 1 << 30
    runner: str = "local"
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    spreads: bool = False
    """Its engine trains on several nodes where no single one could ever hold it; all but `gpus` is then of each."""
    device_bytes: float = 0.0
    """The least memory that each of its GPUs must have; 0: not known. In no table: a look at the model tells."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored, with its first event's JSON."""

    job: Job
    priority: int
    create_time_us: int
    sent: str
    """The spec as sent, without secrets, as canonical JSON."""
    requirement: Requirement
    labels: Mapping[str, str]
    warnings: str
    """JSON list of {field, reason, description}."""
    secret_macs: str
    """JSON object: path of a secret to its keyed HMAC, for telling a changed repeat."""
    sealed_secrets: bytes
    """Empty: there are none."""
    output_uri: str
    output_place: str = ""
    """The one spelling of where it publishes; empty: nowhere that another job could be in the way."""
    endpoints: tuple[Endpoint, ...] = ()
    """Whom it tells."""

    @property
    def webhook(self) -> bool:
        """Whether a webhook is to be told: its secret outlives the job."""
        return any(endpoint.kind == WEBHOOK for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that an answer about a job shows."""

    job: Job
    priority: int
    create_time_us: int
    sent: str
    labels: Mapping[str, str]
    warnings: str
    secret_macs: str
    output_uri: str
    pending_reason: str
    base_model_commit: str
    retry_of: str
    effective: str = ""
    """What it really runs with, as fixed at its first placement; empty before."""
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A QUEUED job, as the dispatcher sees it, in the order of the queue."""

    job: Job
    requirement: Requirement
    priority: int
    pending_reason: str
    sent: str
