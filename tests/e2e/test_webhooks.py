"""Webhooks over real HTTP: order, signature, retries, and what must never happen."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from tests.support.eventually import eventually
from tests.support.receiver import receiver
from tests.support.stack import mock_spec


def submitted(stack, spec):
    status, job = stack.http("POST", "/train", json.dumps(spec).encode())
    assert status == 200, job
    return job


def types(got):
    return [json.loads(body)["type"] for _, body in got]


async def test_events_come_in_order_signed_and_with_the_users_header(stack, node, tmp_path):
    async with receiver() as (url, got):
        spec = mock_spec("hook-1", tmp_path / "out", steps=2, step_seconds=0.01)
        spec["callbacks"] = {"webhook_url": url, "auth_header": "Bearer s3cret-canary"}
        job = submitted(stack, spec)
        await eventually(lambda: "job.succeeded" in types(got))
        assert types(got) == ["job.queued", "job.started", "job.succeeded"]
        key = base64.b64decode(job["webhook_signing_secret"].removeprefix("whsec_"))
        for headers, body in got:
            known = {name.lower(): value for name, value in headers.items()}
            assert known["authorization"] == "Bearer s3cret-canary"
            assert known["content-type"] == "application/cloudevents+json"
            event = json.loads(body)
            assert known["webhook-id"] == event["id"]
            signed = f"{known['webhook-id']}.{known['webhook-timestamp']}.".encode() + body
            expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
            assert known["webhook-signature"] == f"v1,{expected}"
    found = [p for p in stack.directory.rglob("*") if p.is_file() and b"s3cret-canary" in p.read_bytes()]
    assert found == []


async def test_only_the_types_asked_for_are_sent(stack, node, tmp_path):
    async with receiver() as (url, got):
        spec = mock_spec("hook-types", tmp_path / "out", steps=3, step_seconds=0.01)
        spec["callbacks"] = {"webhook_url": url, "events": ["job.progress", "job.succeeded"]}
        submitted(stack, spec)
        await eventually(lambda: "job.succeeded" in types(got))
        assert set(types(got)) == {"job.progress", "job.succeeded"}


async def test_a_redirect_is_not_followed_and_a_failure_is_tried_again_with_the_same_id(stack, node, tmp_path):
    async with receiver(302) as (url, got):
        spec = mock_spec("hook-retry", tmp_path / "out") | {"placement": {"node": "nowhere"}}
        spec["callbacks"] = {"webhook_url": url}
        submitted(stack, spec)
        await eventually(lambda: len(got) == 2)
        assert got[0][0]["webhook-id"] == got[1][0]["webhook-id"]
        assert got[0][1] == got[1][1]


async def test_410_ends_the_telling_and_never_the_job(stack, node, tmp_path):
    async with receiver(410) as (url, got):
        spec = mock_spec("hook-410", tmp_path / "out", steps=2, step_seconds=0.01)
        spec["callbacks"] = {"webhook_url": url}
        submitted(stack, spec)
        await eventually(lambda: stack.http("GET", "/train/hook-410")[1]["state"] == "SUCCEEDED")
        assert len(got) == 1
