"""A node, its devices, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class NodeState(StrEnum):
    """Whether jobs may be placed on a node."""

    READY = "READY"
    NOT_READY = "NOT_READY"
    DRAINING = "DRAINING"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device."""

    index: int
    type: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a node has."""

    gpus: tuple[Gpu, ...] = ()
    cpus: int = 0
    memory_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    runner: str = "local"
    simulated: bool = False
    not_ready_reason: str = ""
    rendezvous_address: str = ""
    """Where ranks on other nodes reach those on this one; empty: it takes part in no gang."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node, as SQL knows it."""

    name: str
    state: NodeState
    reason: str
    inventory: Inventory
    agent_version: str
    host_boot_id: str
    incarnation: int
    counter: int
    generation: int
    last_sync_time_us: int


class Stage(StrEnum):
    """How far an attempt is on its node (proto: AttemptStatus.Stage)."""

    CLAIMING = "CLAIMING"
    CLAIMED = "CLAIMED"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STAGING = "STAGING"
    PUBLISHING = "PUBLISHING"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True, order=True)
class AttemptRef:
    """An attempt by name."""

    job_uid: str
    number: int


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """One attempt, as its node says it is."""

    attempt: AttemptRef
    stage: Stage
    pid: int
    reports: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A node's whole actual state."""

    node: str
    incarnation: int
    counter: int
    host_boot_id: str
    agent_version: str
    inventory: Inventory
    attempts: tuple[AttemptStatus, ...]
    public_key: bytes = b""
    """X25519, of its agent's process; empty: an older agent."""


@dataclass(frozen=True, slots=True)
class Stop:
    """An attempt that must not run, and why."""

    attempt: AttemptRef
    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a node; the answer to a `Sync`."""

    outcome: str
    """APPLIED, SUPERSEDED or NOT_NOW."""
    incarnation: int = 0
    generation: int = 0
    claim: tuple[AttemptRef, ...] = ()
    stop: tuple[Stop, ...] = ()
    settled: tuple[AttemptRef, ...] = ()
    next_sync_seconds: float = 3.0
