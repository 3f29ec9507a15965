from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.domain.delivery import Delivery, EndpointState, Outcome, PendingRetry
from tests.support.builders import endpoint, job, new_job
from tests.support.former import owe_endpoints


@pytest.fixture
async def jobs(store):
    """Jobs with three events each."""
    made = [job(job_id=name, last_sequence=3) for name in "abc"]
    await store.write(lambda tx: tx.insert_jobs([new_job(j, sent=f'{{"of":"{j.job_id}"}}') for j in made]))
    return made


async def test_a_former_version_s_job_owes_an_endpoint_until_it_has_one(store, jobs):
    a, b, _ = jobs
    assert await store.read(lambda tx: tx.jobs_without_endpoint(limit=10)) == []
    await owe_endpoints(store, [b.uid, a.uid])
    assert await store.read(lambda tx: tx.jobs_without_endpoint(limit=10)) == [
        (a.uid, '{"of":"a"}'),
        (b.uid, '{"of":"b"}'),
    ]
    assert await store.read(lambda tx: tx.jobs_without_endpoint(limit=1)) == [(a.uid, '{"of":"a"}')]

    await store.write(lambda tx: (tx.insert_endpoints([endpoint(a)]), tx.owe_no_endpoint([a.uid])))

    assert await store.read(lambda tx: tx.jobs_without_endpoint(limit=10)) == [(b.uid, '{"of":"b"}')]
    assert await store.read(lambda tx: tx.endpoint(a.uid, "webhook")) == endpoint(a)
    assert await store.read(lambda tx: tx.endpoint(b.uid, "webhook")) is None


async def test_inserting_an_endpoint_again_changes_nothing(store, jobs):
    a, *_ = jobs
    moved = endpoint(a, cursor=2, tries=1, next_try_time_us=50, first_failure_time_us=40)
    await store.write(lambda tx: tx.insert_endpoints([endpoint(a)]))
    await store.write(lambda tx: tx.save_endpoint(moved))

    await store.write(lambda tx: tx.insert_endpoints([endpoint(a)]))

    assert await store.read(lambda tx: tx.endpoint(a.uid, "webhook")) == moved


@pytest.mark.parametrize(
    ("fields", "due"),
    [
        ({}, True),
        ({"cursor": 2, "next_try_time_us": 100}, True),
        ({"next_try_time_us": 101}, False),
        ({"cursor": 3}, False),
        ({"state": EndpointState.SETTLED}, False),
        ({"state": EndpointState.DISABLED}, False),
    ],
)
async def test_an_endpoint_is_due_while_it_is_behind_and_its_time_has_come(store, jobs, fields, due):
    a, *_ = jobs
    made = endpoint(a, **fields)
    await store.write(lambda tx: tx.insert_endpoints([made]))

    assert await store.read(lambda tx: tx.due_endpoints(now_us=100, limit=10)) == ([made] if due else [])


async def test_those_that_waited_longest_are_due_first(store, jobs):
    a, b, _ = jobs
    late, early = endpoint(a, next_try_time_us=9), endpoint(b, next_try_time_us=8)
    await store.write(lambda tx: tx.insert_endpoints([late, early]))

    assert await store.read(lambda tx: tx.due_endpoints(now_us=100, limit=10)) == [early, late]
    assert await store.read(lambda tx: tx.due_endpoints(now_us=100, limit=1)) == [early]


async def test_the_next_try_is_the_earliest_of_endpoints_and_retries(store, jobs):
    a, b, _ = jobs
    assert await store.read(lambda tx: tx.next_try_time_us()) == 0

    await store.write(lambda tx: tx.insert_endpoints([endpoint(a), endpoint(b, next_try_time_us=70)]))
    assert await store.read(lambda tx: tx.next_try_time_us()) == 70
    await store.write(lambda tx: tx.save_retry(PendingRetry(a.uid, "webhook", 1, 1, 60)))
    assert await store.read(lambda tx: tx.next_try_time_us()) == 60
    await store.write(lambda tx: tx.save_endpoint(endpoint(b, next_try_time_us=5, state=EndpointState.DISABLED)))
    assert await store.read(lambda tx: tx.next_try_time_us()) == 60


async def test_every_try_is_recorded_by_time(store, jobs):
    a, *_ = jobs
    first = Delivery(a.uid, "webhook", 1, 1, 10, Outcome.FAILED, 503, "Service Unavailable", 0.25)
    second = replace(first, number=2, time_us=20, outcome=Outcome.DELIVERED, status_code=200, detail="")
    for delivery in (second, first):
        await store.write(lambda tx, delivery=delivery: tx.insert_delivery(delivery))

    assert await store.read(lambda tx: tx.deliveries(a.uid)) == [first, second]


async def test_an_overtaken_event_is_tried_until_it_is_settled(store, jobs):
    a, b, _ = jobs
    await store.write(lambda tx: tx.insert_endpoints([endpoint(a), endpoint(b)]))
    later, sooner = PendingRetry(a.uid, "webhook", 2, 1, 20), PendingRetry(b.uid, "webhook", 1, 1, 10)
    await store.write(lambda tx: (tx.save_retry(later), tx.save_retry(sooner)))

    assert await store.read(lambda tx: tx.due_retries(now_us=10, limit=10)) == [sooner]
    assert await store.read(lambda tx: tx.due_retries(now_us=20, limit=10)) == [sooner, later]
    moved = replace(sooner, tries=2, next_try_time_us=30)
    await store.write(lambda tx: tx.save_retry(moved))
    await store.write(lambda tx: tx.delete_retry(later))
    assert await store.read(lambda tx: tx.due_retries(now_us=99, limit=10)) == [moved]


async def test_a_job_may_have_a_webhook_and_a_status_stream_each_with_its_cursor(store, jobs):
    a, *_ = jobs
    hook, stream = endpoint(a), endpoint(a, kind="status_stream", types=(), url="https://events.example.com:444/x")
    await store.write(lambda tx: tx.insert_endpoints([hook, stream]))
    await store.write(lambda tx: tx.save_endpoint(replace(stream, cursor=2)))

    assert await store.read(lambda tx: tx.endpoint(a.uid, "webhook")) == hook
    assert await store.read(lambda tx: tx.endpoint(a.uid, "status_stream")) == replace(stream, cursor=2)
    due = await store.read(lambda tx: tx.due_endpoints(now_us=100, limit=10))
    assert [(each.kind, each.cursor) for each in due] == [("status_stream", 2), ("webhook", 0)]


async def test_endpoints_and_retries_of_full_hosts_are_passed_over(store, jobs):
    a, b, _ = jobs
    hooks, others = endpoint(a), endpoint(b, url="https://Other.example.com:8443/y")
    retries = [PendingRetry(each.job_uid, "webhook", 1, 1, 5, each.host) for each in (hooks, others)]

    def work(tx):
        tx.insert_endpoints([hooks, others])
        for retry in retries:
            tx.save_retry(retry)

    await store.write(work)

    def found(*full):
        return lambda tx: (
            tx.due_endpoints(now_us=100, limit=10, full_hosts=full),
            tx.due_retries(now_us=100, limit=10, full_hosts=full),
        )

    assert await store.read(found()) == ([hooks, others], retries)
    assert await store.read(found("hooks.example.com")) == ([others], retries[1:])
    assert await store.read(found("other.example.com:8443", "nobody")) == ([hooks], retries[:1])
    assert await store.read(found("hooks.example.com", "other.example.com:8443")) == ([], [])
