"""Handing an attempt to its node, once, and deciding which attempt publishes, once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from controlplane.domain import news as n
from controlplane.domain.attempt import Attempt, AttemptState
from controlplane.domain.errors import MoveNotAllowed
from controlplane.domain.job import LIVE, Job, State
from controlplane.domain.lifecycle import IllegalNews
from controlplane.engine import gangs
from controlplane.engine.changes import DELIVERY_SECRET
from controlplane.engine.requests import ClaimAnswer, ClaimAsked, CommitAnswer, CommitAsked, Grant

if TYPE_CHECKING:
    from controlplane.engine.changes import Changes, Recorder
    from controlplane.engine.ports import Vault


class Claims:
    """Answers claims and commit requests by compare-and-set; asking again gets the same answer."""

    def __init__(self, recorder: Recorder, *, vault: Vault) -> None:
        self._recorder = recorder
        self._vault = vault

    async def claim(self, asked: ClaimAsked) -> ClaimAnswer:
        """The spec, and the secrets sealed to the node, for whoever claims first; again for the same nonce."""
        return await self._recorder.write(lambda changes: self._claim(changes, asked))

    async def commit(self, asked: CommitAsked) -> CommitAnswer:
        """The commit, for at most one attempt of a job and one manifest; irrevocable."""
        return await self._recorder.write(lambda changes: _commit(changes, asked))

    def _claim(self, changes: Changes, asked: ClaimAsked) -> ClaimAnswer:
        tx, ref = changes.tx, asked.attempt
        job = tx.job(ref.job_uid)
        part = tx.attempts_on(asked.node, [ref]).get(ref)
        if job is None or part is None:
            return ClaimAnswer(Grant.REFUSED, reason="UNKNOWN_ATTEMPT")
        if not _current(job, part):
            return ClaimAnswer(Grant.REFUSED, reason="NOT_CURRENT")
        if _superseded(changes, asked):
            return ClaimAnswer(Grant.NOT_NOW)
        row = tx.attempt_nodes([ref], asked.node)[ref]
        if row.claim_nonce and row.claim_nonce != asked.nonce:
            return ClaimAnswer(Grant.REFUSED, reason="CLAIMED_BY_ANOTHER")
        if not row.claim_nonce:
            tx.set_nonce(ref.job_uid, ref.number, node=asked.node, nonce=asked.nonce)
        first = part
        if part.gang:
            parts = gangs.gather(changes, part, asked)
            if parts is None:
                return ClaimAnswer(Grant.NOT_NOW)
            first = parts[0]
        elif part.state is AttemptState.ASSIGNED:
            tx.save_attempt(replace(part, state=AttemptState.CLAIMED, claim_time_us=changes.now_us))
        sealed = tx.sealed_secrets(ref.job_uid)
        secrets = self._vault.open(sealed.sealed, uid=ref.job_uid) if sealed and sealed.sealed else {}
        secrets.pop(DELIVERY_SECRET, None)  # the node never posts to the webhook
        return ClaimAnswer(
            Grant.GRANTED,
            assignment_json=json.dumps(_assignment(changes, job, part, first)).encode(),
            sealed_secrets=self._vault.seal_to(asked.public_key, secrets),
            applied=row.applied,
        )


def _current(job: Job, attempt: Attempt) -> bool:
    return job.attempt == attempt.number and job.state in LIVE and attempt.state is not AttemptState.LOST


def _superseded(changes: Changes, asked: ClaimAsked | CommitAsked) -> bool:
    """Whether a newer agent of the same name exists: its next sync tells this one, which concludes nothing before."""
    node = changes.tx.node(asked.node)
    return node is not None and asked.incarnation < node.incarnation


def _assignment(changes: Changes, job: Job, part: Attempt, first: Attempt) -> dict[str, Any]:
    """docs/trainer-contract.md's `assignment.json`, for one node's part of the attempt."""
    effective = json.loads(changes.tx.effective_spec(job.uid))
    node = changes.tx.node(part.node)
    simulated = node is not None and node.inventory.simulated
    minutes = effective["resources"].get("max_duration_minutes")
    ranks = max(1, len(part.devices))
    return {
        "uid": job.uid,
        "job_id": job.job_id,
        "project": job.project,
        "attempt": part.number,
        "spec": effective,
        "devices": [] if simulated else [str(device) for device in part.devices],
        "world_size": ranks * (1 + len(first.others)),
        # One clock for all ranks, or one node's would end the others without their knowing why.
        "deadline_seconds": None if minutes is None or part.index else _left(changes, job, first, minutes * 60.0),
        **({"gang": _gang(part, first, ranks)} if part.gang else {}),
    }


def _gang(part: Attempt, first: Attempt, ranks: int) -> dict[str, Any]:
    """A node's place among the gang's; every node has as many ranks."""
    address, _, port = first.meeting.rpartition(":")
    return {
        "nodes": 1 + len(first.others),
        "node": part.index,
        "first_rank": part.index * ranks,
        "address": address,
        "port": int(port),
    }


def _left(changes: Changes, job: Job, attempt: Attempt, allowed_seconds: float) -> float:
    """What is left of the job's time, which runs in STARTING and RUNNING over all attempts; at least a second."""
    used_us = 0
    for number in range(1, attempt.number):
        earlier = changes.tx.attempt(job.uid, number)
        if earlier is not None and earlier.end_time_us:
            used_us += earlier.end_time_us - earlier.assign_time_us
    return max(allowed_seconds - used_us / 1e6, 1.0)


def _commit(changes: Changes, asked: CommitAsked) -> CommitAnswer:
    tx, ref = changes.tx, asked.attempt
    job = tx.job(ref.job_uid)
    attempt = tx.attempt(ref.job_uid, ref.number)
    if job is None or attempt is None or attempt.node != asked.node:
        return CommitAnswer(Grant.REFUSED, reason="UNKNOWN_ATTEMPT")
    if attempt.manifest_digest:
        same = attempt.manifest_digest == asked.manifest_digest
        return CommitAnswer(Grant.GRANTED) if same else CommitAnswer(Grant.REFUSED, reason="ANOTHER_MANIFEST")
    if not _current(job, attempt):
        return CommitAnswer(Grant.REFUSED, reason="NOT_CURRENT")
    if job.state is State.STARTING or _superseded(changes, asked):
        # The reports that say that it ran are on their way; or a newer agent has the attempt.
        return CommitAnswer(Grant.NOT_NOW)
    return _granted(changes, job, attempt, digest=asked.manifest_digest)


def _granted(changes: Changes, job: Job, attempt: Attempt, *, digest: str) -> CommitAnswer:
    try:
        moved = changes.apply(job, n.CommitGranted(attempt.number))
    except (MoveNotAllowed, IllegalNews):
        return CommitAnswer(Grant.REFUSED, reason=job.state.value)
    if not moved.granted:
        return CommitAnswer(Grant.REFUSED, reason=job.state.value)
    changes.tx.save_attempt(replace(attempt, manifest_digest=digest))
    return CommitAnswer(Grant.GRANTED)
