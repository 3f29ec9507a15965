"""Storing a batch of prepared submits in one transaction: who is stored, who was there, who may not.

Invariant 2: the name decides. A repeat is the job that is there; a changed one is refused naming the paths that differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from controlplane.domain import spec
from controlplane.domain.errors import JobExists, Unavailable
from controlplane.engine import outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controlplane.domain.errors import OutputInUse
    from controlplane.domain.job import JobRecord
    from controlplane.engine.ports import Transaction
    from controlplane.engine.preparing import Prepared

_RETRY_AFTER = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Stored:
    """The job is in SQL once the transaction is committed."""


Outcome: TypeAlias = "Stored | JobRecord | JobExists | OutputInUse | Unavailable"
"""What became of a submit: stored; the job that was there; or a refusal."""


def store(tx: Transaction, batch: Sequence[Prepared], *, pending: Mapping[str, str]) -> list[Outcome]:
    """Stores what may be stored, with its first event; answers in the order of the batch.

    Args:
        tx: the transaction; run again, it finds the same.
        batch: all of them under names of their own or of jobs that are there.
        pending: uid -> pending reason, of those whose is known already.
    """
    refused = outputs.taken(tx, [each.new for each in batch])
    stored = tx.insert_jobs([each.new for each in batch if each.new.job.uid not in refused], pending=pending)
    tx.append_events([each.first for each in batch if each.new.job.uid in stored])
    return [_outcome(tx, each, stored, refused) for each in batch]


def _outcome(
    tx: Transaction, prepared: Prepared, stored: frozenset[str], refused: Mapping[str, OutputInUse]
) -> Outcome:
    uid = prepared.new.job.uid
    if uid in stored:
        return Stored()
    return refused[uid] if uid in refused else _repeated(tx, prepared)


def _repeated(tx: Transaction, prepared: Prepared) -> Outcome:
    new = prepared.new
    there = tx.record(new.job.project, new.job.job_id)
    if there is None:
        return Unavailable("the job of that name was just deleted", retry_after=_RETRY_AFTER)
    differing = spec.same(
        json.loads(there.sent), json.loads(there.secret_macs), json.loads(new.sent), json.loads(new.secret_macs)
    )
    return JobExists(there.job.job_id, differing=differing) if differing else there
