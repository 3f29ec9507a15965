"""What passes between the control plane and its submitting child: plain tuples, pickled, with a length before them.

The pipe is our own, and both its ends are the same interpreter; nothing of a user's is ever unpickled as an object.

    (what is known of waits, or None for what was told before; submits) ──►
                                          an answer for each, in order  ◄──
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any

from controlplane.domain.errors import InvalidSpec, JobExists, OutputInUse, Violation
from controlplane.domain.event import StoredEvent
from controlplane.engine.preparing import Asked
from controlplane.engine.storing import Stored

if TYPE_CHECKING:
    from controlplane.domain.errors import DomainError
    from controlplane.engine.preparing import Prepared
    from controlplane.engine.storing import Outcome

HEADER = struct.Struct("!I")
_CREATED, _FOUND, _EXISTS, _IN_USE, _INVALID = range(5)


def packed(value: Any) -> bytes:
    """A frame."""
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(content)) + content


def unpacked(content: bytes) -> Any:
    """A frame's value."""
    return pickle.loads(content)  # noqa: S301 - see the module


def asked_values(asked: Asked) -> tuple[Any, ...]:
    """A submit as a tuple."""
    return asked.spec, asked.project, asked.idempotency_key, asked.uid


def asked_of(values: tuple[Any, ...]) -> Asked:
    """The inverse of `asked_values`."""
    return Asked(*values)


def answer_values(prepared: Prepared, outcome: Outcome, why: str) -> tuple[Any, ...]:
    """What became of a submit that could be prepared, as a tuple."""
    new, first = prepared.new, prepared.first
    if isinstance(outcome, Stored):
        named = (new.job.uid, new.job.project, new.job.job_id)
        return (_CREATED, (*named, first.sequence, first.type, first.time_us, first.json), why, prepared.answer)
    if isinstance(outcome, JobExists):
        return (_EXISTS, outcome.job_id, outcome.differing)
    if isinstance(outcome, OutputInUse):
        return (_IN_USE, outcome.job_id, outcome.state)
    return (_FOUND,)


def invalid_values(error: InvalidSpec) -> tuple[Any, ...]:
    """The violations, as tuples."""
    return (_INVALID, tuple((each.field, each.reason, each.description) for each in error.violations))


def is_created(values: tuple[Any, ...]) -> bool:
    """Whether the job was stored."""
    return bool(values[0] == _CREATED)


def first_of(values: tuple[Any, ...]) -> StoredEvent:
    """The first event of a job that was stored."""
    return StoredEvent(*values[1])


def why_of(values: tuple[Any, ...]) -> str:
    """The pending reason that it was stored with."""
    return str(values[2])


def answer_of(values: tuple[Any, ...]) -> bytes:
    """What the door answers."""
    answer: bytes = values[3]
    return answer


def refused_of(values: tuple[Any, ...]) -> DomainError | None:
    """Why it was refused; None: a job of its name is there, or was, and it must be looked at as it stands now."""
    match values:
        case (kind, violations) if kind == _INVALID:
            return InvalidSpec([Violation(*each) for each in violations])
        case (kind, job_id, differing) if kind == _EXISTS:
            return JobExists(job_id, differing=differing)
        case (kind, job_id, state) if kind == _IN_USE:
            return OutputInUse(job_id, state=state)
    return None
