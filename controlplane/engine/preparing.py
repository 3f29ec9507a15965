"""From a submit as it came to all that is stored and answered of it: one function, pure CPU, without I/O.

Half of a submit's time is spent here, so this is what may be done in another process (`controlplane.preparers`): what
goes in and what comes out are plain data.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from controlplane.domain import event as events
from controlplane.domain import lifecycle, spec
from controlplane.domain.ids import ulid
from controlplane.domain.job import Job, NewJob, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from controlplane.domain.errors import Violation
    from controlplane.domain.event import StoredEvent
    from controlplane.domain.spec import CheckedSpec, Rules
    from controlplane.engine.ports import Vault


@dataclass(frozen=True, slots=True)
class Asked:
    """A submit as it came. Its spec may hold secrets, and so is in no repr."""

    spec: dict[str, Any] | bytes = field(repr=False)
    """From the typed door, or the JSON body as it is."""
    project: str
    idempotency_key: str = ""
    """Names a request that has no job_id of its own."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that could be stored, its first event, and what the door answers once it is."""

    new: NewJob
    first: StoredEvent
    answer: bytes = field(repr=False)
    """As `Render` made it. It has the signing secret in it."""


class Render(Protocol):
    """How the door answers a job that was just stored."""

    def __call__(self, new: NewJob, checked: CheckedSpec, /) -> bytes:
        """The answer."""
        ...


class Preparing(Protocol):
    """Whoever prepares submits."""

    async def prepare(self, asked: Asked, *, crowd: int) -> Prepared:
        """Judges a submit and makes what follows from it; may not wait for anything but a processor.

        Args:
            asked: the submit.
            crowd: how many submits are under way, this one among them.

        Raises:
            InvalidSpec: with every violation.
        """
        ...


class Preparer:
    """Prepares submits one by one, in place."""

    def __init__(self, *, rules: Rules, vault: Vault, render: Render, now_us: Callable[[], int]) -> None:
        self._rules = rules
        self._vault = vault
        self._render = render
        self._now_us = now_us

    async def prepare(self, asked: Asked, *, crowd: int) -> Prepared:  # noqa: ARG002 - one after the other
        """See Preparing."""
        return self(asked)

    def __call__(self, asked: Asked) -> Prepared:
        """Prepares one.

        Raises:
            InvalidSpec: with every violation.
        """
        now_us = self._now_us()
        uid = ulid(now_us, secrets.randbits(80))
        job_id = asked.idempotency_key or f"job-{uid.lower()}"
        raw = spec.parse(asked.spec) if isinstance(asked.spec, bytes) else asked.spec
        checked = spec.check(raw, rules=self._rules, fallback_job_id=job_id)
        job = Job(
            uid=uid,
            project=asked.project,
            job_id=checked.job_id or job_id,
            state=State.QUEUED,
            max_attempts=checked.max_attempts,
            last_sequence=1,
            update_time_us=now_us,
        )
        new = NewJob(
            job=job,
            priority=checked.priority,
            create_time_us=now_us,
            sent=spec.canonical(checked.sent),
            requirement=checked.requirement,
            labels=checked.labels,
            warnings=_warnings_json(checked.warnings),
            secret_macs=json.dumps(spec.secret_macs(checked.secrets, self._vault.mac_key()))
            if checked.secrets
            else "{}",
            sealed_secrets=self._vault.seal(checked.secrets, uid=uid),
            webhook=bool(checked.effective.get("callbacks", {}).get("webhook_url")),
            output_uri=checked.effective["artifacts"]["output_uri"],
            output_place=spec.place(checked.effective["artifacts"]["output_uri"]),
            status_stream="status_stream_url" in checked.effective["artifacts"],
        )
        first = events.stored(lifecycle.created(job, now_us=now_us))
        return Prepared(new, first, self._render(new, checked))


@lru_cache(maxsize=256)
def _warnings_json(warnings: tuple[Violation, ...]) -> str:
    """The same few warnings come with every job of a user's template."""
    return json.dumps([{"field": w.field, "reason": w.reason, "description": w.description} for w in warnings])
