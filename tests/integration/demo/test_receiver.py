"""The receiver over real HTTP, called as the control plane calls it."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp

from trainplane.demo import receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = {"id": "uid.1", "type": "job.queued", "data": {"sequence": 1}}


async def call(url: str, event: dict, *, secret: str = SECRET) -> int:
    body, now = json.dumps(event).encode(), str(int(time.time()))
    headers = {
        "content-type": "application/cloudevents+json",
        "webhook-id": event["id"],
        "webhook-timestamp": now,
        "webhook-signature": receiver.sign(event["id"], now, body, secret=secret),
    }
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def test_a_signed_event_is_told_and_answered_204():
    told = []
    async with receiver.listening(told.append) as listener:
        listener.secret.set_result(SECRET)
        assert await call(listener.url, EVENT) == 204
    assert told == [EVENT]


async def test_an_event_signed_with_another_secret_is_answered_401_and_told_to_nobody():
    told = []
    async with receiver.listening(told.append) as listener:
        listener.secret.set_result(SECRET)
        assert await call(listener.url, EVENT, secret="whsec_AAAA9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == 401
    assert told == []


async def test_an_event_that_comes_before_the_secret_waits_for_it():
    told = []
    async with receiver.listening(told.append) as listener:
        early = asyncio.create_task(call(listener.url, EVENT))
        assert await call(listener.url.replace("/webhook", "/elsewhere"), EVENT) == 404  # a round trip later
        listener.secret.set_result(SECRET)
        assert await early == 204
    assert told == [EVENT]


async def test_two_receivers_take_two_loopback_ports():
    async with receiver.listening(print) as one, receiver.listening(print) as other:
        assert one.url != other.url
        assert all(each.url.startswith("http://127.0.0.1:") for each in (one, other))
