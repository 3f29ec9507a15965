"""From a submit as it came to all that is stored and answered of it: one function, pure CPU, without I/O.

Half of a submit's time is spent here, so this is what may be done in another process (`controlplane.preparers`): what
goes in and what comes out are plain data. Several at once go through it step by step, all of them through each: the
code of one step stays in the processor's caches, and that of the whole way does not (280 us against 185 a submit where
16 come together).
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from controlplane.domain import event as events
from controlplane.domain import lifecycle, spec
from controlplane.domain.delivery import endpoints_of
from controlplane.domain.errors import InvalidSpec
from controlplane.domain.ids import ulid
from controlplane.domain.job import Job, NewJob, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


@dataclass(slots=True)
class _Draft:
    """A submit on its way to what is stored of it; a step fills in what the next ones need."""

    asked: Asked
    uid: str
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    checked: CheckedSpec = field(init=False, repr=False)
    new: NewJob = field(init=False, repr=False)
    first: StoredEvent = field(init=False, repr=False)
    answer: bytes = field(init=False, repr=False)
    refused: InvalidSpec | None = None
    """Set by the step that found it wrong; no further step is taken."""

    @property
    def job_id(self) -> str:
        """The job's, if its spec has none of its own."""
        return self.asked.idempotency_key or f"job-{self.uid.lower()}"


class Preparer:
    """Prepares submits, in place."""

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
        (outcome,) = self.several([asked])
        if isinstance(outcome, InvalidSpec):
            raise outcome
        return outcome

    def several(self, asked: Sequence[Asked]) -> list[Prepared | InvalidSpec]:
        """Prepares them side by side; each has its own outcome, in their order."""
        now_us = self._now_us()
        drafts = [_Draft(each, ulid(now_us, secrets.randbits(80))) for each in asked]
        for step in (self._parse, self._check, self._write, self._begin, self._answer):
            for draft in drafts:
                if draft.refused is None:
                    try:
                        step(draft, now_us)
                    except InvalidSpec as error:
                        draft.refused = error
        return [draft.refused or Prepared(draft.new, draft.first, draft.answer) for draft in drafts]

    def _parse(self, draft: _Draft, _now_us: int) -> None:
        said = draft.asked.spec
        draft.raw = spec.parse(said) if isinstance(said, bytes) else said

    def _check(self, draft: _Draft, _now_us: int) -> None:
        draft.checked = spec.check(draft.raw, rules=self._rules, fallback_job_id=draft.job_id)

    def _write(self, draft: _Draft, now_us: int) -> None:
        checked = draft.checked
        artifacts = checked.effective["artifacts"]
        draft.new = NewJob(
            job=Job(
                uid=draft.uid,
                project=draft.asked.project,
                job_id=checked.job_id or draft.job_id,
                state=State.QUEUED,
                max_attempts=checked.max_attempts,
                last_sequence=1,
                update_time_us=now_us,
            ),
            priority=checked.priority,
            create_time_us=now_us,
            sent=spec.canonical(checked.sent),
            requirement=checked.requirement,
            labels=checked.labels,
            warnings=_warnings_json(checked.warnings),
            secret_macs=json.dumps(spec.secret_macs(checked.secrets, self._vault.mac_key()))
            if checked.secrets
            else "{}",
            sealed_secrets=self._vault.seal(checked.secrets, uid=draft.uid),
            output_uri=artifacts["output_uri"],
            output_place=spec.place(artifacts["output_uri"]),
            endpoints=endpoints_of(draft.uid, checked.sent),
        )

    def _begin(self, draft: _Draft, now_us: int) -> None:
        draft.first = events.stored(lifecycle.created(draft.new.job, now_us=now_us))

    def _answer(self, draft: _Draft, _now_us: int) -> None:
        draft.answer = self._render(draft.new, draft.checked)


@lru_cache(maxsize=256)
def _warnings_json(warnings: tuple[Violation, ...]) -> str:
    """The same few warnings come with every job of a user's template."""
    return json.dumps([{"field": w.field, "reason": w.reason, "description": w.description} for w in warnings])
