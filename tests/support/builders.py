"""Small builders of domain records: name what a test is about, and the rest is ordinary."""

from __future__ import annotations

import itertools
from typing import Any

from controlplane.domain.attempt import Attempt, AttemptState
from controlplane.domain.delivery import Endpoint
from controlplane.domain.event import Event, EventType, StoredEvent, stored
from controlplane.domain.job import Job, NewJob, Requirement, State
from controlplane.domain.node import Gpu, Inventory, Node, NodeState

#: 2026-01-01T00:00:00Z.
EPOCH_US = 1_767_225_600_000_000

_numbers = itertools.count(1)


def uid(number: int | None = None) -> str:
    """A uid; later calls, and greater numbers, sort after."""
    return f"01K{next(_numbers) if number is None else number:023d}"


def job(**fields: Any) -> Job:
    """A QUEUED job of project `default`, with its first event recorded."""
    own = fields.pop("uid", None) or uid()
    usual: dict[str, Any] = {
        "project": "default",
        "job_id": f"job-{own.lower()}",
        "state": State.QUEUED,
        "last_sequence": 1,
        "update_time_us": EPOCH_US,
    }
    return Job(uid=own, **(usual | fields))


def new_job(made: Job | None = None, **fields: Any) -> NewJob:
    """A job to be stored."""
    usual: dict[str, Any] = {
        "priority": 50,
        "create_time_us": EPOCH_US,
        "sent": '{"base_model":{"model_name":"m"}}',
        "requirement": Requirement(),
        "labels": {},
        "warnings": "[]",
        "secret_macs": "{}",
        "sealed_secrets": b"",
        "output_uri": "file:///out",
    }
    return NewJob(job=made or job(), **(usual | fields))


def event(of: Job, sequence: int = 1, type: EventType = EventType.QUEUED, **fields: Any) -> StoredEvent:  # noqa: A002 - the field's name
    """An event of a job, rendered."""
    usual: dict[str, Any] = {"time_us": EPOCH_US + sequence, "phase": "", "reason": "", "message": "", "progress": None}
    return stored(
        Event(
            uid=of.uid,
            project=of.project,
            job_id=of.job_id,
            sequence=sequence,
            type=type,
            attempt=of.attempt,
            state=of.state,
            **(usual | fields),
        )
    )


def attempt(of: Job, number: int = 1, **fields: Any) -> Attempt:
    """An ASSIGNED attempt on `gpu-01`, without devices."""
    usual: dict[str, Any] = {
        "node": "gpu-01",
        "devices": (),
        "cpus": 1,
        "memory_bytes": 1 << 30,
        "state": AttemptState.ASSIGNED,
        "assign_time_us": EPOCH_US,
    }
    return Attempt(job_uid=of.uid, number=number, **(usual | fields))


def node(name: str = "gpu-01", *, gpus: int = 4, **fields: Any) -> Node:
    """A READY node with A100s."""
    devices = tuple(Gpu(index, "NVIDIA A100-SXM4-80GB", 80 << 30) for index in range(gpus))
    usual: dict[str, Any] = {
        "state": NodeState.READY,
        "reason": "",
        "inventory": Inventory(gpus=devices, cpus=64, memory_bytes=512 << 30, labels={"zone": "a"}),
        "agent_version": "0.1.0",
        "host_boot_id": "boot-1",
        "incarnation": 1,
        "counter": 1,
        "generation": 1,
        "last_sync_time_us": EPOCH_US,
    }
    return Node(name=name, **(usual | fields))


def endpoint(of: Job, **fields: Any) -> Endpoint:
    """A job's webhook that wants two types."""
    usual: dict[str, Any] = {
        "kind": "webhook",
        "url": "https://hooks.example.com/x",
        "types": ("job.queued", "job.succeeded"),
    }
    return Endpoint(job_uid=of.uid, **(usual | fields))
