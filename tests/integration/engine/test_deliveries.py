"""Telling webhooks, over days of virtual time."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from controlplane.domain import news as n
from controlplane.domain.delivery import RETRY_DELAYS, EndpointState, Outcome
from controlplane.domain.job import Progress
from controlplane.engine.deliveries import CONCURRENCY, PER_HOST
from controlplane.engine.ports import Answer, OutcomeUnknown, StoreUnavailable
from controlplane.engine.posting import signature
from controlplane.engine.preparing import Asked
from tests.support.clock import in_virtual_time
from tests.support.former import owe_endpoints
from tests.support.world import Agent, spec, world

URL = "https://hooks.example.com/x"
DAY = 86_400
LOOPS = ("deliveries",)
#: Where days pass: a sweep a second would be a million of them. So retries come up to so many seconds late.
SWEEP = 600


def hook(url=URL, **more):
    return {"callbacks": {"webhook_url": url} | more}


async def ended(here, job_id="j", url=URL, **more):
    """A job that was queued, started and failed: three events of the default set."""
    agent = Agent(here)
    await agent.sync()
    ref = await here.placed(job_id, agent, **hook(url, **more))
    await agent.report(ref, 1, n.Started(1), n.Failed(1, "DATASET_EMPTY", "no rows"))
    return ref.job_uid


def types(here, url=URL):
    return [json.loads(post.body)["type"] for post in here.outbound.posts if post.url == url]


def sequences(here, url=URL):
    return [json.loads(post.body)["data"]["sequence"] for post in here.outbound.posts if post.url == url]


async def endpoint(here, uid):
    return await here.store.read(lambda tx: tx.endpoint(uid, "webhook"))


async def tries(here, uid):
    return await here.store.read(lambda tx: tx.deliveries(uid))


@in_virtual_time
async def test_what_was_asked_for_comes_in_order_and_then_the_endpoint_is_settled(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        uid = await ended(here)
        await asyncio.sleep(2)
        assert types(here) == ["job.queued", "job.started", "job.failed"]
        assert (await endpoint(here, uid)).state is EndpointState.SETTLED
        assert [(t.outcome, t.number) for t in await tries(here, uid)] == [(Outcome.DELIVERED, 1)] * 3


@in_virtual_time
async def test_events_that_nobody_asked_for_are_passed_over_to_the_end(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        uid = await ended(here, events=["job.checkpoint_saved"])
        await asyncio.sleep(2)
        assert here.outbound.posts == []
        assert (await endpoint(here, uid)).state is EndpointState.SETTLED


@in_virtual_time
async def test_each_post_is_signed_as_standard_webhooks_says_and_carries_the_users_header(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        uid = await ended(here, auth_header="Bearer canary")
        await asyncio.sleep(2)
        key = base64.b64decode(here.vault.signing_secret(uid).removeprefix("whsec_"))
        for post in here.outbound.posts:
            signed = f"{post.headers['webhook-id']}.{post.headers['webhook-timestamp']}.".encode() + post.body
            expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
            assert post.headers["webhook-signature"] == expected
            assert post.headers["authorization"] == "Bearer canary"
            assert post.headers["content-type"] == "application/cloudevents+json"
            assert json.loads(post.body)["id"] == post.headers["webhook-id"]
        assert "canary" not in repr(await tries(here, uid))


def test_the_signature_is_the_one_of_the_specification_s_example():
    """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"""
    found = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        event_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@in_virtual_time
async def test_the_whole_schedule_of_an_endpoint_that_is_down_for_days(tmp_path):
    async with world(tmp_path, sweep_seconds=SWEEP) as here, here.loops(*LOOPS):
        here.outbound.always[URL] = 500
        uid = (await here.submit("j", **hook(events=["job.queued"]))).record.job.uid
        await asyncio.sleep(4 * DAY)
        times = [post.seconds for post in here.outbound.posts]
        gaps = [timedelta(seconds=b - a) for a, b in itertools.pairwise(times)]
        assert len(gaps) == len(RETRY_DELAYS) == 8
        for gap, delay in zip(gaps, RETRY_DELAYS, strict=True):
            assert delay <= gap <= delay * 1.1 + timedelta(seconds=SWEEP)
        assert len(set(here.outbound.ids(URL))) == 1
        found = await tries(here, uid)
        assert [t.number for t in found] == list(range(1, 10))
        assert [t.outcome for t in found] == [Outcome.FAILED] * 8 + [Outcome.DEAD]
        assert {t.status_code for t in found} == {500}
        assert await here.store.read(lambda tx: tx.due_retries(now_us=2**62, limit=9)) == []


@in_virtual_time
async def test_an_event_holds_back_those_behind_it_for_five_minutes_and_then_no_longer(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        here.outbound.answers[URL] = [500] * 4  # at 0 s, 5 s, 35 s, 2:35; its next try is at 17:35
        await ended(here)
        await asyncio.sleep(290)
        assert types(here) == ["job.queued"] * 4
        await asyncio.sleep(20)
        assert types(here) == ["job.queued"] * 4 + ["job.started", "job.failed"]
        await asyncio.sleep(1200)
        assert types(here)[6:] == ["job.queued"]
        assert len(set(here.outbound.ids(URL)[:4] + here.outbound.ids(URL)[6:])) == 1


@in_virtual_time
async def test_one_that_is_overtaken_and_stays_refused_dies_alone(tmp_path):
    async with world(tmp_path, sweep_seconds=SWEEP) as here, here.loops(*LOOPS):
        uid = await ended(here)
        await asyncio.sleep(5)
        here.outbound.posts.clear()
        here.outbound.always[URL] = 503
        second = await ended(here, "k")
        await asyncio.sleep(5 * DAY)
        found = await tries(here, second)
        for sequence in {t.sequence for t in found}:
            outcomes = [t.outcome for t in found if t.sequence == sequence]
            assert outcomes == [Outcome.FAILED] * 8 + [Outcome.DEAD]
        assert (await endpoint(here, second)).state is EndpointState.SETTLED
        assert len(await tries(here, uid)) == 3


@in_virtual_time
async def test_a_retry_after_is_honoured_for_429_and_503_only_and_never_over_a_day(tmp_path):
    async with world(tmp_path, sweep_seconds=SWEEP) as here, here.loops(*LOOPS):
        asked = [
            Answer(429, timedelta(seconds=60), "", timedelta()),
            Answer(503, timedelta(seconds=90), "", timedelta()),
            Answer(500, timedelta(days=1), "", timedelta()),
            Answer(429, timedelta(days=30), "", timedelta()),
        ]
        here.outbound.answers[URL] = asked
        await here.submit("j", **hook(events=["job.queued"]))
        await asyncio.sleep(3 * DAY)
        gaps = [b.seconds - a.seconds for a, b in itertools.pairwise(here.outbound.posts)]
        for gap, expected in zip(gaps, [60, 90, 120, DAY], strict=True):
            assert expected <= gap <= expected * 1.1 + SWEEP


@in_virtual_time
async def test_a_slow_endpoint_delays_no_other(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        slow = "https://slow.example.com/"
        here.outbound.answers[slow] = [15.0, 0] * 50
        for i in range(20):
            await here.submit(f"slow-{i}", **hook(slow))
        await asyncio.sleep(1)
        began = here.clock.monotonic()
        await here.submit("fast", **hook())
        await asyncio.sleep(1.5)
        assert types(here) == ["job.queued"]
        assert here.outbound.posts[-1].seconds - began < 1.5


@in_virtual_time
async def test_a_host_that_hangs_holds_its_share_of_the_places_and_no_more(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        hanging = [f"https://hangs.example.com/{i}" for i in range(200)]
        here.outbound.answers = {url: [15.0, 0] * 99 for url in hanging}
        async with here.loops("submissions"):
            made = [spec(f"h{i}", **hook(url)) for i, url in enumerate(hanging)]
            await asyncio.gather(*(here.submissions.submit(Asked(each, "default")) for each in made))
            await asyncio.sleep(5)
            assert len(here.outbound.posts) == PER_HOST
            others = [spec(f"o{i}", **hook(f"https://o{i}.example.com/")) for i in range(CONCURRENCY - PER_HOST)]
            await asyncio.gather(*(here.submissions.submit(Asked(each, "default")) for each in others))
        await asyncio.sleep(3)
        assert len([post for post in here.outbound.posts if "://o" in post.url]) == len(others)
        assert len([post for post in here.outbound.posts if "://hangs" in post.url]) == PER_HOST


@in_virtual_time
async def test_more_endpoints_than_are_tried_at_once_all_get_their_turn(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        urls = [f"https://h{i}.example.com/" for i in range(150)]
        here.outbound.answers = {url: [10.0] for url in urls}
        async with here.loops("submissions"):
            made = [spec(f"j{i}", **hook(url)) for i, url in enumerate(urls)]
            await asyncio.gather(*(here.submissions.submit(Asked(each, "default")) for each in made))
        await asyncio.sleep(60)
        assert sorted(post.url for post in here.outbound.posts) == sorted(urls)


@in_virtual_time
async def test_a_former_version_s_jobs_are_told_though_they_were_stored_without_endpoints(tmp_path):
    async with world(tmp_path) as here:
        uids = [(await here.submit(f"j{i}", **hook(f"https://h{i}.example.com/"))).record.job.uid for i in range(3)]

        def forget(tx):
            for uid in uids:
                tx._run(text("DELETE FROM endpoints WHERE job_uid = :uid"), {"uid": uid})

        await here.store.write(forget)
        await owe_endpoints(here.store, uids)
        async with here.loops(*LOOPS):
            await asyncio.sleep(5)
        assert sorted(post.url for post in here.outbound.posts) == [f"https://h{i}.example.com/" for i in range(3)]
        assert await here.store.read(lambda tx: tx.jobs_without_endpoint(limit=1)) == []


@in_virtual_time
async def test_killed_between_2xx_and_mark_it_comes_again_with_the_same_id(tmp_path):
    async with world(tmp_path) as here:
        async with here.loops(*LOOPS):
            here.outbound.answers[URL] = [5.0]  # the endpoint takes its time, and we are killed
            await here.submit("j", **hook())
            await asyncio.sleep(3)
            assert len(here.outbound.posts) == 1
        async with here.loops(*LOOPS):
            await asyncio.sleep(10)
        ids = here.outbound.ids(URL)
        assert len(ids) == 2
        assert len(set(ids)) == 1
        assert here.outbound.posts[0].body == here.outbound.posts[1].body


@pytest.mark.parametrize("error", [StoreUnavailable("disk full"), OutcomeUnknown("lost")])
def test_what_cannot_be_written_down_is_repeated_slowly_and_the_loop_lives(tmp_path, error):
    @in_virtual_time
    async def run():
        async with world(tmp_path) as here, here.loops("deliveries", "old secrets") as died:
            here.outbound.answers[URL] = [1.0]
            uid = (await here.submit("j", **hook())).record.job.uid
            await asyncio.sleep(0.5)  # the endpoint row is there, its first POST under way
            here.store.fails_writing = error
            await asyncio.sleep(60)
            assert 2 <= len(here.outbound.posts) <= 15
            assert not died.done()
            here.store.fails_writing = None
            await asyncio.sleep(10)
            assert not died.done()
            assert [t.outcome for t in await tries(here, uid)] == [Outcome.DELIVERED]
            assert len(set(here.outbound.ids(URL))) == 1

    run()


@in_virtual_time
async def test_a_commit_that_was_made_and_not_answered_delivers_no_other_event_twice(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS) as died:
        here.outbound.answers[URL] = [1.0]
        uid = (await here.submit("j", **hook())).record.job.uid
        await asyncio.sleep(0.5)
        here.store.unanswered = OutcomeUnknown("lost")
        await asyncio.sleep(2)
        here.store.unanswered = None
        await asyncio.sleep(20)
        assert not died.done()
        assert len(here.outbound.posts) == len(await tries(here, uid)) == 1


@in_virtual_time
async def test_410_ends_the_telling_and_what_was_overtaken_is_dropped(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        here.outbound.answers[URL] = [500] * 4 + [410]
        uid = await ended(here)
        await asyncio.sleep(1500)
        assert types(here) == ["job.queued"] * 4 + ["job.started"]
        assert (await endpoint(here, uid)).state is EndpointState.DISABLED
        assert (await here.job("j")).state == "FAILED"  # by its own end, not the endpoint's
        assert await here.store.read(lambda tx: tx.due_retries(now_us=2**62, limit=9)) == []


@in_virtual_time
async def test_the_delivery_s_secret_is_erased_a_week_after_the_last_delivery_of_an_ended_job(tmp_path):
    async with world(tmp_path, sweep_seconds=3600) as here, here.loops("deliveries", "old secrets"):
        uid = await ended(here, auth_header="Bearer canary")

        async def sealed():
            return (await here.store.read(lambda tx: tx.sealed_secrets(uid))).sealed

        await asyncio.sleep(6.9 * DAY)
        assert here.vault.open(await sealed(), uid=uid) == {"callbacks.auth_header": "Bearer canary"}
        await asyncio.sleep(0.3 * DAY)
        assert await sealed() == b""


@in_virtual_time
async def test_a_live_job_s_secret_is_not_erased_however_old(tmp_path):
    async with world(tmp_path, sweep_seconds=3600) as here, here.loops("deliveries", "old secrets"):
        made = await here.submit("j", **hook(auth_header="Bearer canary"))
        await asyncio.sleep(30 * DAY)
        assert (await here.store.read(lambda tx: tx.sealed_secrets(made.record.job.uid))).sealed


@in_virtual_time
async def test_secrets_that_cannot_be_opened_are_a_failed_delivery_not_the_loop_s_end(tmp_path):
    async with world(tmp_path) as here:
        uid = (await here.submit("j", **hook(auth_header="Bearer canary"))).record.job.uid
    async with world(tmp_path, master_key=b"x" * 32) as here:
        async with here.loops(*LOOPS) as died:
            await asyncio.sleep(3)
            assert not died.done()
        assert here.outbound.posts == []
        assert "another master key" in (await tries(here, uid))[0].detail


@in_virtual_time
async def test_while_a_job_goes_on_its_events_follow_each_other_one_at_a_time(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        agent = Agent(here)
        await agent.sync()
        ref = await here.placed("j", agent, **hook(events=["job.progress", "job.failed"]))
        here.outbound.answers[URL] = [0.3, 204, 0.3, 500, 204] * 3
        for number in range(1, 10):
            await agent.report(ref, number, n.Progressed(1, Progress(number, 10)))
            await asyncio.sleep(0.1)
        await agent.report(ref, 10, n.Failed(1, "DATASET_EMPTY", ""))
        await asyncio.sleep(60)
        taken = list(dict.fromkeys(sequences(here)))
        assert taken == sorted(taken)
        assert len(taken) == 10


UNREACHED = Answer(0, None, "no connection: Name or service not known", timedelta(), reached=False)


@in_virtual_time
async def test_a_host_that_cannot_be_reached_is_tried_slowly_and_hides_nobody(tmp_path):
    async with world(tmp_path) as here, here.loops(*LOOPS):
        away = [f"https://away.example.com/{i}" for i in range(300)]
        here.outbound.answers = {url: [UNREACHED] * 9 for url in away}
        async with here.loops("submissions"):
            made = [spec(f"a{i}", **hook(url)) for i, url in enumerate(away)]
            await asyncio.gather(*(here.submissions.submit(Asked(each, "default")) for each in made))
            await asyncio.sleep(1)
            before = len(here.outbound.posts)
            await here.submissions.submit(Asked(spec("other", **hook(URL)), "default"))
            await asyncio.sleep(10)
        assert types(here) == ["job.queued"]
        slow = len([post for post in here.outbound.posts if "away" in post.url]) - before
        assert 30 <= slow <= 60
        # It is there again: whoever was never tried hears at once, the others when their own time comes.
        here.outbound.answers = {}
        await asyncio.sleep(12)
        told = {post.url for post in here.outbound.posts if "away" in post.url and post.seconds > 0}
        assert told == set(away)
