"""Status streams over real HTTP: all events, in order, across an outage of the receiver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from google.api.httpbody_pb2 import HttpBody

from tests.support.eventually import eventually
from tests.support.receiver import receiver
from tests.support.stack import mock_spec, stubs


def submitted(stack, spec):
    status, job = stack.http("POST", "/train", json.dumps(spec).encode())
    assert status == 200, job
    return job


def sequences(got):
    return [event["data"]["sequence"] for _, body in got for event in json.loads(body)]


async def test_every_event_comes_in_order_after_an_outage_beside_the_webhook(stack, node, tmp_path):
    down = 3
    async with receiver(*[503] * down) as (url, got), receiver() as (hook, told):
        spec = mock_spec("stream-1", tmp_path / "out", steps=5, step_seconds=0.05, progress_every_step=True)
        spec["artifacts"]["status_stream_url"] = url
        spec["callbacks"] = {"webhook_url": hook, "auth_header": "Bearer s3cret-canary"}
        job = submitted(stack, spec)
        await eventually(lambda: stack.http("GET", "/train/stream-1")[1]["state"] == "SUCCEEDED")
        last = stack.http("GET", "/train/stream-1")[1]["last_sequence"]
        await eventually(lambda: last in sequences(got[down:]))
        assert sequences(got[down:]) == list(range(1, last + 1))
        assert {sequences([refused])[0] for refused in got[:down]} == {1}
        recorded = stack.http("GET", "/train/stream-1/events")[1]["events"]
        sent = [event["data"] for _, body in got[down:] for event in json.loads(body)]
        assert [(e["sequence"], e["type"], e["state"]) for e in sent] == [
            (e["sequence"], e["type"], e["state"]) for e in recorded
        ]
        await eventually(lambda: len(told) == 3)
    key = base64.b64decode(job["webhook_signing_secret"].removeprefix("whsec_"))
    for headers, body in got:
        known = {name.lower(): value for name, value in headers.items()}
        assert known["content-type"] == "application/cloudevents-batch+json"
        numbers = sequences([(headers, body)])
        assert known["webhook-id"] == f"{job['uid']}.{numbers[0]}-{numbers[-1]}"
        signed = f"{known['webhook-id']}.{known['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert known["webhook-signature"] == f"v1,{expected}"
        assert "authorization" not in known


async def test_a_control_plane_that_is_killed_goes_on_where_it_was(own_stack, tmp_path):
    async with receiver(500) as (url, got):
        own_stack.join("node-1", "--cpus", "8", "--memory-gb", "16")
        spec = mock_spec("stream-2", tmp_path / "out", steps=30, step_seconds=0.1, progress_every_step=True)
        spec["artifacts"]["status_stream_url"] = url
        async with stubs(own_stack.address) as (jobs, _):
            await jobs.SubmitTraining(HttpBody(content_type="application/json", data=json.dumps(spec).encode()))
        await eventually(lambda: len(sequences(got[1:])) > 2)
        own_stack.controlplane.kill()
        own_stack.start_controlplane()
        await eventually(lambda: "job.succeeded" in types(got), deadline_seconds=60)
        taken = list(dict.fromkeys(sequences(got)))
        assert taken == list(range(1, len(taken) + 1))


def types(got):
    return {event["type"] for _, body in got for event in json.loads(body)}
