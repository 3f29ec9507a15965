"""Telling status streams, over days of virtual time."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from controlplane.domain import news as n
from controlplane.domain.delivery import STATUS_STREAM, STREAM_DELAYS, STREAM_PATIENCE, WEBHOOK, EndpointState, Outcome
from controlplane.domain.job import Progress
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from controlplane.engine.posting import signature
from controlplane.engine.preparing import Asked
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, spec, world

URL = "https://events.example.com/x"
HOOK = "https://hooks.example.com/x"
HOUR = 3_600
DAY = 24 * HOUR
LOOPS = ("deliveries",)
SWEEP = 30
"""Where days pass: retries come up to so many seconds late."""


def streamed(job_id="j", **blocks):
    made = spec(job_id, **blocks)
    return blocks | {"artifacts": made["artifacts"] | {"status_stream_url": URL}}


async def started(here, job_id="j", **blocks):
    """A job that runs, with its agent: three events."""
    agent = Agent(here)
    await agent.sync()
    ref = await here.placed(job_id, agent, **streamed(job_id, **blocks))
    await agent.report(ref, 1, n.Started(1))
    return agent, ref


async def progresses(agent, ref, first, last):
    """One event for each number."""
    await agent.report(ref, first, *(n.Progressed(1, Progress(number, 1000)) for number in range(first, last + 1)))


async def fails(agent, ref, number):
    await agent.report(ref, number, n.Failed(1, "DATASET_EMPTY", "no rows"))


def posts(here, url=URL):
    return [post for post in here.outbound.posts if post.url == url]


def batches(here):
    return [[event["data"]["sequence"] for event in json.loads(post.body)] for post in posts(here)]


async def endpoint(here, uid, kind=STATUS_STREAM):
    return await here.store.read(lambda tx: tx.endpoint(uid, kind))


async def tries(here, uid):
    found = await here.store.read(lambda tx: tx.deliveries(uid))
    return [(t.sequence, t.number, t.outcome) for t in found if t.kind == STATUS_STREAM]


@in_virtual_time
async def test_every_event_comes_once_in_order_and_then_the_stream_is_settled(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        agent, ref = await started(here)
        for number in range(2, 12):
            await progresses(agent, ref, number, number)
            await asyncio.sleep(1)
        await fails(agent, ref, 12)
        await asyncio.sleep(2)
        assert list(itertools.chain(*batches(here))) == list(range(1, 15))
        types = [event["type"] for post in posts(here) for event in json.loads(post.body)]
        assert types == await here.types("j")
        assert (await endpoint(here, ref.job_uid)).state is EndpointState.SETTLED
        assert await tries(here, ref.job_uid) == []  # what was taken at once is not worth a row


@in_virtual_time
async def test_a_batch_is_signed_says_what_it_holds_and_never_has_the_users_header(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        agent, ref = await started(
            here, callbacks={"webhook_url": HOOK, "auth_header": "Bearer canary", "events": ["job.failed"]}
        )
        await fails(agent, ref, 2)
        await asyncio.sleep(2)
        uid = ref.job_uid
        for post, held in zip(posts(here), batches(here), strict=True):
            headers = dict(post.headers)
            assert headers.pop("content-type") == "application/cloudevents-batch+json"
            assert headers.pop("webhook-id") == f"{uid}.{held[0]}-{held[-1]}"
            stamp = int(headers.pop("webhook-timestamp"))
            assert headers == {
                "webhook-signature": signature(
                    here.vault.signing_secret(uid),
                    event_id=post.headers["webhook-id"],
                    timestamp=stamp,
                    body=post.body,
                )
            }
            assert b"canary" not in post.body
        # The webhook of the same job has its own filter, its own cursor, and the header.
        assert [json.loads(post.body)["type"] for post in posts(here, HOOK)] == ["job.failed"]
        assert posts(here, HOOK)[0].headers["authorization"] == "Bearer canary"
        assert (await endpoint(here, uid, WEBHOOK)).state is EndpointState.SETTLED


@in_virtual_time
async def test_after_an_outage_it_resumes_at_the_first_unacknowledged_event_in_batches_of_100(tmp_path):
    async with world(tmp_path, sweep_seconds=SWEEP) as here, here.loops(*LOOPS):
        agent, ref = await started(here)
        await asyncio.sleep(2)
        assert list(itertools.chain(*batches(here))) == [1, 2, 3]
        here.outbound.always[URL] = 503
        for number in range(2, 252):
            await progresses(agent, ref, number, number)
            await asyncio.sleep(10)
        refused = [held for held in batches(here) if held[0] != 1]
        assert {held[0] for held in refused} == {4}  # nothing went past the first that was not taken
        assert max(map(len, refused)) == 100
        here.outbound.posts.clear()
        del here.outbound.always[URL]
        await asyncio.sleep(2 * 60)
        assert batches(here) == [list(range(4, 104)), list(range(104, 204)), list(range(204, 254))]
        assert (await here.job("j")).state == "RUNNING"


@in_virtual_time
async def test_its_retries_begin_after_a_second_and_come_once_a_minute_in_a_long_outage(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        here.outbound.always[URL] = 0
        _, ref = await started(here)
        await asyncio.sleep(HOUR)
        times = [post.seconds for post in posts(here)]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        expected = [delay.total_seconds() for delay in STREAM_DELAYS] + [60] * (len(gaps) - len(STREAM_DELAYS))
        assert len(gaps) > 50
        for gap, delay in zip(gaps, expected, strict=True):
            assert delay <= gap <= delay * 1.1 + 1.3  # jitter, and a sweep
        here.outbound.always[URL] = 204
        await asyncio.sleep(70)
        found = await tries(here, ref.job_uid)
        assert found[:-1] == [(1, number, Outcome.FAILED) for number in range(1, len(found))]
        assert found[-1] == (1, len(found), Outcome.DELIVERED)  # when it was over stands there too


@in_virtual_time
async def test_while_its_job_lives_it_is_never_given_up_and_the_webhook_goes_on_beside_it(tmp_path):
    async with world(tmp_path, sweep_seconds=600) as here, here.loops(*LOOPS):
        here.outbound.always[URL] = 500
        agent, ref = await started(here, callbacks={"webhook_url": HOOK})
        await asyncio.sleep(10 * DAY)
        assert (await endpoint(here, ref.job_uid)).state is EndpointState.ACTIVE
        assert [json.loads(post.body)["type"] for post in posts(here, HOOK)] == ["job.queued", "job.started"]
        here.outbound.posts.clear()
        del here.outbound.always[URL]
        await asyncio.sleep(700)
        assert batches(here) == [[1, 2, 3]]
        await fails(agent, ref, 2)
        await asyncio.sleep(1)
        assert batches(here)[1:] == [[4]]


@in_virtual_time
async def test_long_after_its_job_s_end_it_is_given_up_and_the_job_is_as_it_was(tmp_path):
    async with world(tmp_path, sweep_seconds=600) as here, here.loops(*LOOPS):
        here.outbound.always[URL] = 500
        agent, ref = await started(here)
        await fails(agent, ref, 2)
        await asyncio.sleep(STREAM_PATIENCE.total_seconds() - HOUR)
        assert (await endpoint(here, ref.job_uid)).state is EndpointState.ACTIVE
        await asyncio.sleep(2 * HOUR)
        assert (await endpoint(here, ref.job_uid)).state is EndpointState.SETTLED
        assert (await tries(here, ref.job_uid))[-1][2] is Outcome.DEAD
        count = len(posts(here))
        await asyncio.sleep(DAY)
        assert len(posts(here)) == count
        assert (await here.job("j")).reason == "DATASET_EMPTY"


@in_virtual_time
async def test_410_ends_it_and_the_job_goes_on(tmp_path):
    async with world(tmp_path, sweep_seconds=SWEEP) as here, here.loops(*LOOPS):
        here.outbound.answers[URL] = [410]
        agent, ref = await started(here)
        await asyncio.sleep(2)
        await progresses(agent, ref, 2, 9)
        await asyncio.sleep(HOUR)
        assert len(posts(here)) == 1
        assert (await endpoint(here, ref.job_uid)).state is EndpointState.DISABLED
        assert (await here.job("j")).state == "RUNNING"


@in_virtual_time
async def test_killed_between_2xx_and_mark_the_same_batch_comes_again_and_nothing_is_passed_over(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await started(here)
        async with here.loops(*LOOPS):
            here.outbound.answers[URL] = [5.0]  # the receiver takes its time, and we are killed
            await asyncio.sleep(3)
        async with here.loops(*LOOPS):
            await asyncio.sleep(3)
            await fails(agent, ref, 2)
            await asyncio.sleep(3)
        assert batches(here) == [[1, 2, 3], [1, 2, 3], [4]]
        first, again = posts(here)[:2]
        assert (first.body, first.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])


@pytest.mark.parametrize("error", [StoreUnavailable("disk full"), OutcomeUnknown("lost")])
def test_what_cannot_be_written_down_is_repeated_slowly_and_never_passed_over(tmp_path, error):
    @in_virtual_time
    async def run():
        async with world(tmp_path) as here, here.loops(*LOOPS) as died:
            here.outbound.answers[URL] = [1.0]
            await here.submit("j", **streamed())
            await asyncio.sleep(0.5)  # its first POST is under way
            here.store.fails_writing = error
            await asyncio.sleep(60)
            assert 2 <= len(posts(here)) <= 15
            assert not died.done()
            here.store.fails_writing = None
            await asyncio.sleep(10)
            assert set(map(tuple, batches(here))) == {(1,)}
            count = len(posts(here))
            await asyncio.sleep(60)
            assert len(posts(here)) == count

    run()


@in_virtual_time
async def test_a_stream_that_hangs_delays_no_other(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        here.outbound.answers[URL] = [15.0, 0] * 90
        async with here.loops("submissions"):
            made = [spec(f"s{i}") | {"artifacts": streamed(f"s{i}")["artifacts"]} for i in range(40)]
            await asyncio.gather(*(here.submissions.submit(Asked(each, "default")) for each in made))
        await asyncio.sleep(1)
        await here.submit("fast", callbacks={"webhook_url": HOOK})
        await asyncio.sleep(1.5)
        assert len(posts(here, HOOK)) == 1
