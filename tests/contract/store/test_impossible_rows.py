"""Rows that no code of ours writes, and that the schema refuses should a bug try."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from controlplane.domain.artifact import Artifact, Log
from controlplane.domain.checkpoint import Checkpoint
from controlplane.domain.delivery import Delivery, Outcome, PendingRetry
from controlplane.domain.job import State
from controlplane.domain.metrics import MetricChunk
from tests.support.builders import attempt, endpoint, event, job, new_job

OWNER = job(job_id="owner")
RUNNING = replace(OWNER, state=State.RUNNING, attempt=1)


class _Word(str):
    """A state that the domain does not have."""

    __slots__ = ()

    @property
    def value(self) -> str:
        return str(self)


IMPOSSIBLE = {
    "a job in an unknown state": lambda tx: tx.save_jobs([replace(OWNER, state=_Word("LOST"))]),
    "an ended job without an end": lambda tx: tx.save_jobs([replace(RUNNING, state=State.FAILED)]),
    "a live job with an end": lambda tx: tx.save_jobs([replace(RUNNING, end_time_us=1)]),
    "a running job without an attempt": lambda tx: tx.save_jobs([replace(RUNNING, attempt=0)]),
    "a negative count": lambda tx: tx.save_jobs([replace(OWNER, failures=-1)]),
    "more published than there is": lambda tx: tx.mark_published({OWNER.uid: 2}),
    "a job that forgets published events": lambda tx: (
        tx.mark_published({OWNER.uid: 1}),
        tx.save_jobs([replace(OWNER, last_sequence=0)]),
    ),
    "a priority beyond 100": lambda tx: tx.insert_jobs([new_job(priority=101)]),
    "an event numbered 0": lambda tx: tx.append_events([event(OWNER, 0)]),
    "an event of no job": lambda tx: tx.append_events([event(job())]),
    "an attempt of no job": lambda tx: tx.insert_attempt(attempt(job())),
    "an attempt numbered 0": lambda tx: tx.insert_attempt(attempt(OWNER, 0)),
    "an attempt twice": lambda tx: (tx.insert_attempt(attempt(OWNER)), tx.insert_attempt(attempt(OWNER))),
    "an attempt in an unknown state": lambda tx: tx.insert_attempt(attempt(OWNER, state=_Word("GONE"))),
    "two granted attempts of a job": lambda tx: [
        tx.insert_attempt(attempt(OWNER, number, manifest_digest="sha256:1")) for number in (1, 2)
    ],
    "a watermark below 0": lambda tx: (
        tx.insert_attempt(attempt(OWNER)),
        tx.advance_watermark(OWNER.uid, 1, node="gpu-01", applied=0, to=-1),
    ),
    "a device twice in an attempt": lambda tx: tx.insert_attempt(attempt(OWNER, devices=(1, 1))),
    "an artifact of less than nothing": lambda tx: tx.insert_artifacts([Artifact(OWNER.uid, "p", "u", -1, "")]),
    "a log of no job": lambda tx: tx.save_log(Log("nobody", 1, 0, 1)),
    "a chunk of metrics of no job": lambda tx: tx.insert_metric_chunks([MetricChunk("nobody", 1, 1, 1, 1, 1, "{}")]),
    "a chunk without points": lambda tx: tx.insert_metric_chunks([MetricChunk(OWNER.uid, 1, 1, 1, 1, 0, "{}")]),
    "a chunk that ends before it begins": lambda tx: tx.insert_metric_chunks(
        [MetricChunk(OWNER.uid, 1, 1, 2, 1, 1, "{}")]
    ),
    "a checkpoint of no job": lambda tx: tx.save_checkpoint(
        Checkpoint("nobody", 1, 1, "gpu-01", 1, "", 1), oldest_step=0
    ),
    "a checkpoint of step 0": lambda tx: tx.save_checkpoint(
        Checkpoint(OWNER.uid, 1, 0, "gpu-01", 1, "", 1), oldest_step=0
    ),
    "an endpoint in an unknown state": lambda tx: tx.insert_endpoints([endpoint(OWNER, state=_Word("GONE"))]),
    "a retry of no endpoint": lambda tx: tx.save_retry(PendingRetry(OWNER.uid, "webhook", 1, 1, 1)),
    "a delivery numbered 0": lambda tx: tx.insert_delivery(
        Delivery(OWNER.uid, "webhook", 1, 0, 1, Outcome.FAILED, 0, "", 0.0)
    ),
}


@pytest.mark.parametrize("row", IMPOSSIBLE)
async def test_is_refused(store, row):
    await store.write(lambda tx: tx.insert_jobs([new_job(OWNER)]))

    with pytest.raises(IntegrityError):
        await store.write(IMPOSSIBLE[row])


async def test_one_granted_attempt_and_failed_ones_beside_it_are_possible(store):
    def work(tx):
        tx.insert_jobs([new_job(OWNER)])
        tx.insert_attempt(attempt(OWNER, 1))
        tx.insert_attempt(attempt(OWNER, 2, manifest_digest="sha256:1"))
        tx.insert_attempt(attempt(OWNER, 3))

    await store.write(work)
