"""Every query of a loop or a page finds its rows by an index: none of them slows down with the jobs that ever were."""

from __future__ import annotations

import pytest
from sqlalchemy import event as sa_event
from sqlalchemy import text

from controlplane.domain.job import State
from controlplane.domain.node import AttemptRef
from controlplane.engine.ports import JobFilter
from controlplane.store import open_store, tables
from tests.support.builders import job, new_job

TABLES = tables.metadata.tables.keys()
QUERIES = {
    "a page of all jobs": lambda tx: tx.records(JobFilter("default", before_uid="01K5"), limit=5),
    "a page of some states": lambda tx: tx.records(JobFilter("default", states=[State.FAILED]), limit=5),
    "a page by a label": lambda tx: tx.records(JobFilter("default", labels={"team": "a"}), limit=5),
    "a page by two labels and a state": lambda tx: tx.records(
        JobFilter("default", states=[State.QUEUED], labels={"team": "a", "tier": "b"}), limit=5
    ),
    "one job": lambda tx: tx.record("default", "a"),
    "waiting jobs": lambda tx: tx.waiting_jobs(limit=5),
    "the next waiting jobs": lambda tx: tx.waiting_jobs(limit=5, after=(50, "01K5")),
    "unseen jobs": lambda tx: tx.unseen_jobs(limit=5),
    "a place in the queue": lambda tx: tx.queue_position("01K5", priority=50),
    "recovering jobs": lambda tx: tx.recovering_jobs(due_us=5),
    "unpublished jobs": lambda tx: tx.unpublished(limit=5),
    "events": lambda tx: tx.events_after("01K5", 3, limit=5),
    "charged attempts": lambda tx: tx.charged_attempts(),
    "charged attempts of a node": lambda tx: tx.charged_on("gpu-01"),
    "a node's part of some attempts": lambda tx: tx.attempts_on(
        "gpu-01", [AttemptRef("01K5", 1), AttemptRef("01K6", 1)]
    ),
    "an attempt on all its nodes": lambda tx: tx.parts("01K5", 1),
    "who claimed": lambda tx: tx.claimants("01K5", 1),
    "incomplete gangs": lambda tx: tx.incomplete_gangs(before_us=5),
    "jobs without an endpoint": lambda tx: tx.jobs_without_endpoint(limit=5),
    "due endpoints": lambda tx: tx.due_endpoints(now_us=5, limit=5),
    "due retries": lambda tx: tx.due_retries(now_us=5, limit=5),
    "the next try": lambda tx: tx.next_try_time_us(),
    "who publishes beside a place": lambda tx: tx.outputs_beside("default", ["/out/a/", "/out/b/"]),
    "who publishes to a place": lambda tx: tx.output_holder("default", "/out/a/"),
    "old secrets": lambda tx: tx.old_secrets(ended_before_us=5, limit=5),
    "artifacts": lambda tx: tx.artifacts("01K5"),
    "checkpoints": lambda tx: tx.checkpoints("01K5", limit=5),
    "logs": lambda tx: tx.logs("01K5"),
    "chunks of metrics": lambda tx: tx.metric_chunks("01K5", after=(1, 7), limit=5),
    "first measured steps": lambda tx: tx.first_measured_steps("01K5"),
    "deliveries": lambda tx: tx.deliveries("01K5"),
}
SORTED_AFTERWARDS = {
    "a page of all jobs",  # ten ranges of a page each are merged
    "a page of some states",
    "recovering jobs",  # by uid, the order of locks
    "due endpoints",
    "due retries",
    "charged attempts",
    "deliveries",
}


@pytest.fixture
async def plans(tmp_path):
    """Answers how SQLite would run what a work asks."""
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    await store.write(lambda tx: tx.insert_jobs([new_job(job(uid="01K5", job_id="a"), labels={"team": "a"})]))
    asked = []

    def remember(_connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    sa_event.listen(store._reader.engine, "before_cursor_execute", remember)

    async def plans(work):
        asked.clear()
        await store.read(work)
        statements = list(asked)
        with store._reader.begin():
            explained = [
                store._reader.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                for statement, parameters in statements
            ]
        return [step[3] for plan in explained for step in plan]

    yield plans
    await store.close()


def read_whole(steps):
    """The tables that a plan reads without an index; constant rows and merged subqueries are none."""
    return [step for step in steps if step.startswith("SCAN ") and "INDEX" not in step and step.split()[1] in TABLES]


async def test_a_query_without_an_index_would_be_seen(plans):
    steps = await plans(lambda tx: tx._all(text("SELECT uid FROM jobs WHERE phase = 'x' ORDER BY message")))

    assert read_whole(steps) == ["SCAN jobs"]
    assert "USE TEMP B-TREE FOR ORDER BY" in steps


@pytest.mark.parametrize("name", QUERIES)
async def test_reads_a_range_of_an_index(plans, name):
    steps = await plans(QUERIES[name])

    assert steps
    assert read_whole(steps) == []
    if name not in SORTED_AFTERWARDS:
        assert [step for step in steps if "TEMP B-TREE" in step] == []
