"""quality.md's bad requests at both doors: 4xx in the one shape, nothing stored, nothing leaked."""

from __future__ import annotations

import json
import os
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given, settings

from tests.support import bad_requests
from tests.support.spec_strategies import bodies
from tests.support.stack import Stack, stubs
from trainplane.errors import InvalidRequest
from trainplane.sdk.spec_message import to_message
from trainplane.v1 import job_service_pb2 as service
from trainplane.v1.job_service_pb2_grpc import JobServiceStub

CASES = (*bad_requests.BAD_BODIES, *bad_requests.BAD_SPECS)
HTTP = {"INVALID_ARGUMENT": 400}
_SAME_ANSWERS = {
    (200, "OK"),
    (400, "INVALID_ARGUMENT"),
    (400, "FAILED_PRECONDITION"),  # another job publishes there
    (409, "ALREADY_EXISTS"),
}
#: The same examples in every run, unless one hunts for more.
_HUNT = int(os.environ.get("TRAINPLANE_EXAMPLES", "0"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Strict, as in production: no fake trainer, no loopback."""
    found = Stack(tmp_path_factory.mktemp("stack"), flags=())
    try:
        found.start()
        yield found
    finally:
        found.stop()


async def count(address) -> int:
    async with stubs(address) as (jobs, _):
        return len((await jobs.ListJobs(service.ListJobsRequest(page_size=500))).jobs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_over_grpc_it_is_refused_in_words(stack, case):
    before = await count(stack.address)
    async with stubs(stack.address) as (jobs, _):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await jobs.SubmitTraining(HttpBody(content_type="application/json", data=case.body))
    assert refused.value.code().name == case.code
    status = rpc_status.from_call(refused.value)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    found = {(v.field, v.reason) for v in bad.field_violations}
    if len(case.expected) > len(bad.field_violations):  # as many as fit, and how many more there are
        assert found < set(case.expected)
        assert f"{len(case.expected) - len(bad.field_violations)} more" in refused.value.details()
    else:
        assert found == set(case.expected)
    assert not [canary for canary in bad_requests.CANARIES if canary in str(status)]
    assert await count(stack.address) == before


async def test_the_typed_door_refuses_all_that_its_message_can_hold_in_the_same_words(stack):
    before = await count(stack.address)
    held, wrong = 0, {}
    async with stubs(stack.address) as (jobs, _):
        for case in bad_requests.BAD_SPECS:
            try:
                spec = to_message(case.body)
            except InvalidRequest:
                continue  # no message says it
            held += 1
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await jobs.CreateJob(service.CreateJobRequest(spec=spec))
            status, bad = rpc_status.from_call(refused.value), error_details_pb2.BadRequest()
            assert any(detail.Unpack(bad) for detail in status.details), case.name
            assert not [canary for canary in bad_requests.CANARIES if canary in str(status)]
            found = {(v.field, v.reason) for v in bad.field_violations}
            if found != set(case.expected):
                wrong[case.name] = found
    assert wrong == {"no datasets": {("datasets", "REQUIRED")}}  # a message has no list that is there and empty
    assert held > 350
    assert await count(stack.address) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_over_http_it_is_refused_in_the_same_words(stack, case):
    before = await count(stack.address)
    status, error = stack.http("POST", "/train", case.body)
    assert status == (413 if len(case.body) > 256 * 1024 else HTTP[case.code]), error
    assert set(error) == {"code", "message", "details"}
    assert any(detail["@type"].endswith("ErrorInfo") for detail in error["details"])
    shown = json.dumps(error)
    assert not [canary for canary in ("Traceback", *bad_requests.CANARIES) if canary in shown]
    assert await count(stack.address) == before


def test_whatever_is_sent_both_doors_say_the_same_and_neither_breaks(stack):
    accepted: list[bool] = []

    @settings(max_examples=_HUNT or 80, deadline=None, derandomize=not _HUNT, database=None)
    @given(bodies())
    def send(body: bytes) -> None:
        key = f"fuzzed-{len(accepted)}"
        status, answer = stack.http("POST", "/train", body, idempotency_key=key)
        code, said = _by_grpc(jobs, body, key)
        shown = json.dumps(answer) + str(said)
        assert not [canary for canary in ("Traceback", *bad_requests.CANARIES) if canary in shown]
        accepted.append(status == 200)
        assert (status, code) in _SAME_ANSWERS, (answer, said)
        if status == 200:
            assert answer["uid"] == said.uid
        else:
            assert (answer["code"], answer["message"]) == (said.code, said.message)

    with grpc.insecure_channel(stack.address) as channel:
        jobs = JobServiceStub(channel)
        send()
    assert 0 < sum(accepted) < len(accepted)


def _by_grpc(jobs: JobServiceStub, body: bytes, key: str) -> tuple[str, Any]:
    """The code, and the status or what was answered."""
    try:
        return "OK", jobs.SubmitTraining(
            HttpBody(content_type="application/json", data=body), metadata=[("idempotency-key", key)]
        )
    except grpc.RpcError as refused:
        return refused.code().name, rpc_status.from_call(refused)
