"""What a client is answered: jobs, the control plane's errors, and those that Envoy makes in its place."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.integration.gateway.canned import canned_control_plane
from tests.integration.gateway.wire import assert_error, call, post_json
from tests.support.envoy import run_gateway
from trainplane.v1 import job_service_pb2, job_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNAVAILABLE = 14
HEADERS_FRAME = 1


async def test_names_stay_snake_case_zeros_are_printed_and_enums_are_bare(gateway):
    job = (await call(gateway, "GET", "/train/abc")).json
    assert (job["job_id"], job["state"]) == ("abc", "RUNNING")
    assert (job["queue_position"], job["pending_reason"], job["attempts"], job["labels"]) == (0, "", [], {})


async def test_what_was_not_sent_is_absent_and_a_sent_zero_is_not(gateway):
    job = (await call(gateway, "GET", "/train/abc")).json
    assert "effective_spec" not in job
    assert "create_time" not in job
    assert job["spec"]["priority"] == 0
    assert job["spec"]["base_model"] == {"model_name": "m"}
    assert "max_attempts" not in job["spec"]


async def test_answers_tell_nothing_about_the_inside(gateway):
    answers = [await call(gateway, "GET", path) for path in ("/train/abc", "/train/invalid", "/nope", "/healthz")]
    for answer in answers:
        assert answer.headers["server"] == "trainplane"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith(("grpc-", "x-envoy-", "trailer"))]


async def test_the_control_planes_details_arrive_as_json(gateway):
    answer = await call(gateway, "GET", "/train/invalid")
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert answer.json == {
        "code": 3,
        "message": '2 fields are "ungültig"',
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "field_violations": [
                    {"field": "customization.rank", "reason": "OUT_OF_RANGE", "description": "from 1 to 1024, got 0"},
                    {"field": "datasets[0].sauce", "reason": "UNKNOWN_FIELD", "description": "did you mean source?"},
                ],
            },
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "INVALID_SPEC",
                "domain": "trainplane.dev",
                "metadata": {"request_id": answer.headers["x-request-id"]},
            },
        ],
    }


async def test_6_kib_of_details_arrive_whole(gateway):
    answer = await call(gateway, "GET", "/train/verbose")
    assert answer.status == 400
    assert len(answer.json["details"][0]["field_violations"]) > 150


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (3, 400),
        (4, 504),
        (5, 404),
        (6, 409),
        (7, 403),
        (8, 429),
        (9, 400),
        (10, 409),
        (11, 400),
        (12, 501),
        (13, 500),
        (14, 503),
        (16, 401),
    ],
)
async def test_each_grpc_code_has_its_http_status(gateway, code, status):
    answer = await call(gateway, "GET", f"/train/code-{code}")
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json["code"] == code
    assert answer.json["message"].startswith("told to say")


async def test_a_call_that_takes_too_long_is_ended_on_both_sides(gateway, control_plane):
    control_plane.jobs.ended.clear()
    # A client cannot ask for more time: Envoy's own header for it is dropped.
    more_time = {"x-envoy-upstream-rq-timeout-ms": "60000"}
    answer = await call(gateway, "GET", "/train/hangs", headers=more_time)
    assert_error(answer, 504, 4, "CONTROL_PLANE_TIMEOUT")
    await asyncio.wait_for(control_plane.jobs.ended.wait(), 10)


async def test_a_page_of_1_mib_is_answered_though_json_makes_six_of_it(gateway):
    answer = await call(gateway, "GET", f"/train/abc/logs?page_size={1024 * 1024}")
    assert answer.status == 200
    assert len(answer.body) > 6_000_000
    assert len(answer.json["lines"]) == 1048


async def test_an_answer_beyond_16_mib_is_refused_with_the_remedy(gateway):
    answer = await call(gateway, "GET", "/train/abc/logs?page_size=17000000")
    assert "smaller page" in assert_error(answer, 500, 13, "ANSWER_TOO_LARGE").message


async def test_a_grpc_client_that_strays_here_is_told_so(gateway):
    async with grpc.aio.insecure_channel(f"localhost:{gateway.port}") as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.GetJob(job_service_pb2.GetJobRequest(job_id="abc"))
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "its own port" in (error.value.details() or "")


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "Application/gRPC-web"])
async def test_a_grpc_content_type_does_not_slip_past_the_transcoder(gateway, control_plane, content_type):
    calls = control_plane.seen.calls
    for method, path in (("GET", "/train/abc"), ("POST", "/train"), ("POST", "/trainplane.v1.JobService/GetJob")):
        answer = await call(gateway, method, path, headers={"content-type": content_type}, body=b"")
        if "grpc-status" in answer.headers:
            assert answer.headers["grpc-status"] == "12"
        else:
            assert_error(answer, 404, 12, "GRPC_NOT_SERVED")
    assert control_plane.seen.calls == calls


async def test_without_a_control_plane_the_client_is_told_to_try_again(tmp_path):
    async with canned_control_plane() as gone:
        address = gone.address
    async with run_gateway(address, data_dir=tmp_path) as gateway:
        for path in ("/train/abc", "/train/abc:watch"):
            answer = await call(gateway, "GET", path)
            error = assert_error(answer, 503, UNAVAILABLE, "CONTROL_PLANE_UNREACHABLE")
            assert answer.headers["retry-after"] == "1"
            retry = error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in error.details)
            assert retry.retry_delay.seconds == 1
            # Envoy's own words would tell addresses.
            assert "127.0.0.1" not in error.message


@asynccontextmanager
async def _dies_in_mid_request() -> AsyncIterator[tuple[str, list[int]]]:
    """Take a connection, read a request's headers, note how many bytes they are, and close without an answer."""
    requests: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        empty_settings = b"\0\0\0\4\0\0\0\0\0"
        writer.write(empty_settings)
        await reader.readexactly(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        while True:
            head = await reader.readexactly(9)
            size = int.from_bytes(head[:3], "big")
            await reader.readexactly(size)
            if head[3] == HEADERS_FRAME:
                break
        requests.append(size)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


async def test_a_submit_whose_connection_is_lost_is_not_repeated_and_its_fate_not_claimed(tmp_path):
    async with _dies_in_mid_request() as (address, requests), run_gateway(address, data_dir=tmp_path) as gateway:
        bulk = "x" * 2000
        answer = await post_json(gateway, "/train", b"{}", x_bulk=bulk)
        error = assert_error(answer, 503, UNAVAILABLE, "CONTROL_PLANE_LOST")
        assert "not known" in error.message
        # Told from the health checks, which are cut off too, by its bulk.
        assert len([size for size in requests if size > len(bulk) / 2]) == 1
