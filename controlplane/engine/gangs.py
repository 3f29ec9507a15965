"""An attempt on several nodes: handed out when all of them ask, and what one node's news are to its job (ADR 0032).

    assigned ─► each node asks, the first says where the ranks meet ─► all have asked: CLAIMED, all at once
        └─ not within a time: every part ENDED, for nothing was handed out ─► GANG_INCOMPLETE

One row of attempts for the first node, one of members for each other: each is charged until its own node says that
nothing is left there. What a job may only say when no process is left anywhere waits for the last of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controlplane.domain import news as n
from controlplane.domain.attempt import AttemptState
from controlplane.domain.job import LIVE, State

if TYPE_CHECKING:
    from controlplane.domain.attempt import Attempt
    from controlplane.domain.job import Job
    from controlplane.domain.news import AttemptNews
    from controlplane.engine.changes import Changes
    from controlplane.engine.ports import Transaction
    from controlplane.engine.requests import ClaimAsked

INCOMPLETE = "GANG_INCOMPLETE"
#: Why a part is stopped whose first node has all that was trained.
FINISHED = "FINISHED"
#: Why a part is stopped when another has ended: its node keeps what is needed to go on from.
PEER_ENDED = "PEER_ENDED"
_UPLOADING = "UPLOADING"
_ENDS = (n.Failed, n.Stopped, n.Lost)
_End = n.Failed | n.Stopped | n.Lost


def gather(changes: Changes, part: Attempt, asked: ClaimAsked) -> list[Attempt] | None:
    """A node asks for its part, its nonce recorded: all parts, now claimed; None: other nodes have not asked yet."""
    tx = changes.tx
    first, *members = tx.parts(part.job_uid, part.number)
    if part.index == 0 and not first.meeting and asked.rendezvous_port:
        node = tx.node(asked.node)
        address = node.inventory.rendezvous_address if node is not None else ""
        first = replace(first, meeting=f"{address}:{asked.rendezvous_port}")
        tx.save_attempt(first)
    parts = [first, *members]
    if first.state is AttemptState.ASSIGNED:
        if not first.meeting or not {each.node for each in parts} <= tx.claimants(part.job_uid, part.number):
            return None
        parts = [replace(each, state=AttemptState.CLAIMED, claim_time_us=changes.now_us) for each in parts]
        for each in parts:
            tx.save_attempt(each)
            changes.told.wake.add(each.node)
    return parts


def to_job(changes: Changes, job: Job, part: Attempt, news: AttemptNews) -> AttemptNews | None:
    """What one node's news are to the job; None: nothing, or not yet.

    Only the first node speaks of the training. An end anywhere is the attempt's end, of which the others are told at
    once; not, though, that of a node that was not needed any more.
    """
    if not isinstance(news, _ENDS):
        if isinstance(news, (n.Finished, n.Published)):
            changes.told.wake.update(part.others)
        return news if part.index == 0 else None
    if job.attempt != part.number:
        return news  # stale, as the lifecycle says too
    others = [each for each in changes.tx.parts(part.job_uid, part.number) if each.index != part.index]
    changes.told.wake.update(each.node for each in others if each.charged)
    if job.state is State.CANCELLING or (job.state is State.PAUSING and isinstance(news, n.Stopped)):
        return _when_all_are_gone(job, part, news, others)
    if part.index and trained(job):
        return None
    first = next((each for each in others if each.index == 0), None)
    if first is not None and not first.reason and job.state in LIVE:
        # The attempt is shown by its first node, which is about to be stopped for this.
        changes.tx.save_attempt(replace(first, reason=news.reason))
    return news


def _when_all_are_gone(job: Job, part: Attempt, news: _End, others: list[Attempt]) -> _End | None:
    if any(each.state is AttemptState.CLAIMED for each in others):
        return None
    lost = next((each for each in others if each.state is AttemptState.LOST), None)
    if job.state is State.CANCELLING and lost is not None:
        return n.Lost(part.number, lost.reason, f"node {lost.node} cannot be reached")
    return news


def trained(job: Job) -> bool:
    """Whether the live attempt has trained to its end, so that only its first node has something left to do."""
    return job.granted or job.phase == _UPLOADING


def leaves_processes(tx: Transaction, job: Job) -> bool:
    """Whether processes of the job's last attempt, which is over, may be left on a node that is not given up."""
    last = tx.attempt(job.uid, job.attempt)
    if last is None or not last.gang:
        return False
    return any(each.state is AttemptState.CLAIMED for each in tx.parts(job.uid, job.attempt))


def end_unclaimed(changes: Changes, part: Attempt, *, reason: str) -> None:
    """Ends every part of an attempt that no node has: it was not handed out, and by this write never will be."""
    parts = changes.tx.parts(part.job_uid, part.number) if part.gang else [part]
    for each in parts:
        if each.state is AttemptState.ASSIGNED:
            changes.tx.save_attempt(replace(each, state=AttemptState.ENDED, end_time_us=changes.now_us, reason=reason))
            changes.told.wake.add(each.node)
    changes.told.capacity = True


def give_up_incomplete(changes: Changes, *, patience_us: int) -> None:
    """Gives up gangs whose nodes have not all asked for so long; their jobs wait for other nodes, or these again."""
    overdue = changes.tx.incomplete_gangs(before_us=changes.now_us - patience_us)
    jobs = changes.tx.jobs({first.job_uid for first in overdue})
    for first in overdue:
        job = jobs.get(first.job_uid)
        asked = changes.tx.claimants(first.job_uid, first.number)
        absent = [node for node in (first.node, *first.others) if node not in asked]
        end_unclaimed(changes, first, reason=INCOMPLETE)
        if job is not None:
            # All may have asked, and the first not said where to meet.
            who = f"node {', '.join(absent)} has" if absent else f"node {first.node} has no free port, and has"
            message = f"{who} not taken its part up within {patience_us / 1e6:g} s; no node began"
            jobs[job.uid] = changes.apply(job, n.Lost(first.number, INCOMPLETE, message))
            changes.told.queue = True
