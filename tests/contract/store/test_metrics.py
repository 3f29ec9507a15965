from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.domain.metrics import MetricChunk
from tests.support.builders import job, new_job


@pytest.fixture
async def chunks(store):
    """Of two attempts of one job, and one of another job."""
    mine, other = job(), job()
    await store.write(lambda tx: tx.insert_jobs([new_job(mine), new_job(other)]))
    made = [
        MetricChunk(mine.uid, 1, 5, 1, 40, 40, '{"step":[]}'),
        MetricChunk(mine.uid, 1, 30, 41, 60, 20, "{}"),
        MetricChunk(mine.uid, 2, 3, 51, 51, 1, "{}"),
    ]
    foreign = MetricChunk(other.uid, 1, 1, 0, 2**40, 500, "{}")
    await store.write(lambda tx: tx.insert_metric_chunks([*reversed(made), foreign]))
    return made


async def test_they_come_by_attempt_and_sequence_page_after_page(store, chunks):
    uid = chunks[0].job_uid
    assert await store.read(lambda tx: tx.metric_chunks(uid, after=(0, 0), limit=10)) == chunks
    assert await store.read(lambda tx: tx.metric_chunks(uid, after=(0, 0), limit=2)) == chunks[:2]
    assert await store.read(lambda tx: tx.metric_chunks(uid, after=(1, 5), limit=10)) == chunks[1:]
    assert await store.read(lambda tx: tx.metric_chunks(uid, after=(1, 30), limit=10)) == chunks[2:]
    assert await store.read(lambda tx: tx.metric_chunks(uid, after=(2, 3), limit=10)) == []


async def test_the_first_step_of_each_attempt_is_known(store, chunks):
    assert await store.read(lambda tx: tx.first_measured_steps(chunks[0].job_uid)) == {1: 1, 2: 51}
    assert await store.read(lambda tx: tx.first_measured_steps("nobody")) == {}


async def test_a_chunk_that_comes_again_changes_nothing(store, chunks):
    again = replace(chunks[0], series='{"step":[9]}')
    await store.write(lambda tx: tx.insert_metric_chunks([again]))
    await store.write(lambda tx: tx.insert_metric_chunks([]))

    assert (await store.read(lambda tx: tx.metric_chunks(again.job_uid, after=(0, 0), limit=1))) == [chunks[0]]
