"""What passes between the control plane and its preparing child: plain tuples, pickled, with a length before them.

The pipe is our own, and both its ends are the same interpreter; nothing of a user's is ever unpickled as an object.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from controlplane.domain.delivery import Endpoint
from controlplane.domain.errors import InvalidSpec, Violation
from controlplane.domain.event import StoredEvent
from controlplane.domain.job import Job, NewJob, Requirement, State
from controlplane.engine.preparing import Asked, Prepared

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = struct.Struct("!I")
_NEW_FIELDS = [each.name for each in fields(NewJob) if each.name not in {"job", "requirement", "labels", "endpoints"}]
_NEED_FIELDS = [each.name for each in fields(Requirement) if each.name != "labels"]
_new_values = attrgetter(*_NEW_FIELDS)
_need_values = attrgetter(*_NEED_FIELDS)


def packed(value: Any) -> bytes:
    """A frame."""
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(content)) + content


def unpacked(content: bytes) -> Any:
    """A frame's value."""
    return pickle.loads(content)  # noqa: S301 - see the module


def asked_values(asked: Asked) -> tuple[Any, ...]:
    """A submit as a tuple."""
    return asked.spec, asked.project, asked.idempotency_key


def asked_of(values: tuple[Any, ...]) -> Asked:
    """The inverse of `asked_values`."""
    return Asked(*values)


def prepared_values(prepared: Prepared) -> tuple[Any, ...]:
    """What was prepared, as a tuple of texts, numbers and bytes."""
    new, job, need = prepared.new, prepared.new.job, prepared.new.requirement
    return (
        (job.uid, job.project, job.job_id, job.max_attempts, job.update_time_us),
        _new_values(new),
        tuple(new.labels.items()),
        _need_values(need),
        tuple(need.labels.items()),
        [(endpoint.kind, endpoint.url, endpoint.types) for endpoint in new.endpoints],
        (prepared.first.type, prepared.first.json),
        prepared.answer,
    )


def prepared_of(values: tuple[Any, ...]) -> Prepared:
    """The inverse of `prepared_values`."""
    of_job, of_new, labels, need, need_labels, endpoints, (event_type, event_json), answer = values
    uid, project, job_id, max_attempts, time_us = of_job
    job = Job(
        uid=uid,
        project=project,
        job_id=job_id,
        state=State.QUEUED,
        max_attempts=max_attempts,
        last_sequence=1,
        update_time_us=time_us,
    )
    new = NewJob(
        job=job,
        requirement=_requirement(need, need_labels),
        labels=dict(labels),
        endpoints=tuple([Endpoint(uid, *endpoint) for endpoint in endpoints]),
        **dict(zip(_NEW_FIELDS, of_new, strict=True)),
    )
    return Prepared(new, StoredEvent(uid, project, job_id, 1, event_type, time_us, event_json), answer)


@lru_cache(maxsize=256)
def _requirement(values: tuple[Any, ...], labels: tuple[tuple[str, str], ...]) -> Requirement:
    """Many jobs have the same: they share it, so it is not to be changed."""
    return Requirement(**dict(zip(_NEED_FIELDS, values, strict=True)), labels=dict(labels))


def refused_values(error: InvalidSpec) -> tuple[tuple[str, str, str], ...]:
    """The violations, as tuples."""
    return tuple((violation.field, violation.reason, violation.description) for violation in error.violations)


def refused_of(values: Sequence[tuple[str, str, str]]) -> InvalidSpec:
    """The inverse of `refused_values`."""
    return InvalidSpec([Violation(*each) for each in values])
