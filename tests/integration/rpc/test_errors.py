"""What a caller hears when a call fails, over a real channel."""

from __future__ import annotations

import base64
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from controlplane.domain import errors as e
from controlplane.domain.errors import Violation
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from tests.support.rpc import dialled, serving
from trainplane.v1 import job_event_pb2, job_pb2, job_service_pb2_grpc
from trainplane.v1 import job_service_pb2 as service


class Raising(job_service_pb2_grpc.JobServiceServicer):
    """Raises one thing, from a unary call and in the midst of a stream."""

    def __init__(self, error):
        self.error = error

    async def GetJob(self, request, context):  # noqa: N802
        raise self.error

    async def WatchJob(self, request, context):  # noqa: N802
        yield job_event_pb2.JobEvent(sequence=1)
        raise self.error


async def refused(error, *metadata):
    async with serving(Raising(error)) as server, dialled(server.address) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.GetJob(service.GetJobRequest(job_id="j"), metadata=metadata)
        stream = stub.WatchJob(service.WatchJobRequest(job_id="j"), metadata=metadata)
        assert (await stream.read()).sequence == 1
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await stream.read()
        assert streamed.value.code() is unary.value.code()
    return unary.value


def details(error):
    """Every detail, by name; the status' own code and message must be the call's."""
    status = rpc_status.from_call(error)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
        found[kind.__name__] = kind.FromString(packed.value)
    return found


SECOND = timedelta(seconds=1.5)
VIOLATION = Violation("a.b[0]", "OUT_OF_RANGE", "must be from 1 to 2, got 3")
CASES = [
    (e.InvalidSpec([VIOLATION]), "INVALID_ARGUMENT", "INVALID_SPEC", {"BadRequest"}),
    (e.InvalidArgument(field="page_token", reason="BAD", description="is none"), "INVALID_ARGUMENT", "BAD", {"BadRequest"}),
    (e.JobNotFound("j"), "NOT_FOUND", "JOB_NOT_FOUND", set()),
    (e.JobExists("j", differing=["a.b", "c"]), "ALREADY_EXISTS", "JOB_EXISTS", set()),
    (e.OutputInUse("other", state="RUNNING"), "FAILED_PRECONDITION", "OUTPUT_IN_USE", set()),
    (e.MoveNotAllowed(state="FAILED", wanted="cancel", why="it is over"), "FAILED_PRECONDITION", "MOVE_NOT_ALLOWED", set()),
    (e.TooManyRequests("too many", retry_after=SECOND), "RESOURCE_EXHAUSTED", "TOO_MANY_REQUESTS", {"RetryInfo"}),
    (e.Unavailable("later", retry_after=SECOND), "UNAVAILABLE", "UNAVAILABLE", {"RetryInfo"}),
    (StoreUnavailable("the disk of db-7 is full"), "UNAVAILABLE", "UNAVAILABLE", {"RetryInfo"}),
    (OutcomeUnknown("lost"), "UNAVAILABLE", "UNAVAILABLE", {"RetryInfo"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "reason", "more"), CASES, ids=lambda case: type(case).__name__)
async def test_each_error_has_its_code_and_its_details(error, code, reason, more):
    found = await refused(error, ("x-request-id", "req-7"))
    told = details(found)
    info = told.pop("ErrorInfo")
    assert (found.code().name, info.reason, info.domain) == (code, reason, "trainplane.dev")
    assert info.metadata["request_id"] == "req-7"
    assert set(told) == more
    assert "db-7" not in str(found)


async def test_the_parts_of_each_detail():
    bad = details(await refused(CASES[0][0]))["BadRequest"].field_violations[0]
    assert (bad.field, bad.reason, bad.description) == (VIOLATION.field, VIOLATION.reason, VIOLATION.description)
    assert details(await refused(CASES[3][0]))["ErrorInfo"].metadata["differing"] == "a.b,c"
    assert details(await refused(CASES[5][0]))["ErrorInfo"].metadata["state"] == "FAILED"
    in_use = details(await refused(CASES[4][0]))["ErrorInfo"].metadata
    assert (in_use["job_id"], in_use["state"], in_use["field"]) == ("other", "RUNNING", "artifacts.output_uri")
    assert details(await refused(CASES[6][0]))["RetryInfo"].retry_delay.ToTimedelta() == SECOND


def test_every_domain_error_is_among_the_cases():
    kinds = {type(case[0]) for case in CASES}
    assert kinds >= set(e.DomainError.__subclasses__())


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, "<script>"])
async def test_a_request_id_that_is_none_is_replaced(given):
    info = details(await refused(e.JobNotFound("j"), ("x-request-id", given)))["ErrorInfo"]
    assert info.metadata["request_id"] not in {given, ""}


@pytest.mark.parametrize("error", [RuntimeError("canary"), KeyError("canary"), ValueError("canary"), TypeError()])
async def test_a_bug_is_internal_with_a_request_id_and_nothing_else(error):
    found = await refused(error, ("x-request-id", "req-8"))
    assert found.code() is grpc.StatusCode.INTERNAL
    assert "canary" not in str(found) + str(details(found))
    assert "req-8" in found.details()


def wire_bytes(error):
    """The trailers as a peer without binary metadata gets them, counted as HTTP/2 counts (RFC 9113, 6.5.2)."""
    total = 0
    for key, value in error.trailing_metadata():
        size = len(base64.b64encode(value)) if isinstance(value, bytes) else len(value.encode())
        total += len(key) + size + 32
    percent = sum(1 if 0x20 <= byte < 0x7F and byte != 0x25 else 3 for byte in error.details().encode())
    return total + len("grpc-message") + percent + 32 + len("grpc-status") + 2 + 32


LONG = "x" * 4_000
LARGE = {
    "a thousand violations": e.InvalidSpec([Violation(f"datasets[{i}].source", "MALFORMED", "must be a URI, got …") for i in range(1000)]),
    "one with a huge path": e.InvalidSpec([Violation(LONG, "UNKNOWN_FIELD", LONG)]),
    "many with huge paths": e.InvalidSpec([Violation(f"{i}{LONG}", "UNKNOWN_FIELD", LONG) for i in range(100)]),
    "wide characters": e.InvalidSpec([Violation("ü" * 3000, "UNKNOWN_FIELD", "語" * 3000)] * 5),
    "a name": e.JobNotFound("j" * 100_000),
    "a wide name": e.JobNotFound("語" * 1000),
    "paths that differ": e.JobExists("j", differing=[f"backend_options.{LONG}{i}" for i in range(50)]),
    "wide paths that differ": e.JobExists("語" * 63, differing=["backend_options." + "語" * 255] * 50),
    "an argument": e.InvalidArgument(field=LONG, reason="BAD", description=LONG),
    "why": e.MoveNotAllowed(state="FAILED", wanted="cancel", why=LONG),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
async def test_however_much_is_wrong_the_answer_fits_into_eight_kilobytes_of_trailers(name):
    found = await refused(LARGE[name], ("x-request-id", "r" * 128))
    assert wire_bytes(found) <= 8 * 1024
    assert details(found)["ErrorInfo"].metadata["request_id"] == "r" * 128


async def test_of_a_thousand_violations_as_many_as_fit_are_told_and_the_rest_counted():
    found = await refused(LARGE["a thousand violations"])
    shown = details(found)["BadRequest"].field_violations
    assert len(shown) > 50
    assert found.details() == f"1000 fields are invalid; {1000 - len(shown)} more are not shown"
    assert [violation.field for violation in shown[:2]] == ["datasets[0].source", "datasets[1].source"]


async def test_a_job_that_failed_is_data_and_no_error_of_the_call():
    class Answering(job_service_pb2_grpc.JobServiceServicer):
        async def GetJob(self, request, context):  # noqa: N802
            return job_pb2.Job(job_id=request.job_id, state=job_pb2.Job.State.FAILED, reason="STALLED")

    async with serving(Answering()) as server, dialled(server.address) as channel:
        job = await job_service_pb2_grpc.JobServiceStub(channel).GetJob(service.GetJobRequest(job_id="j"))
        assert job.reason == "STALLED"


@pytest.mark.parametrize("method", ["GetJob", "WatchJob"])
async def test_bytes_that_are_no_message_are_refused_in_words(method):
    async with serving(Raising(AssertionError("the handler was asked"))) as server, dialled(server.address) as channel:
        path = f"/trainplane.v1.JobService/{method}"
        call = channel.unary_stream(path) if method == "WatchJob" else channel.unary_unary(path)
        answer = call(b"\x0a\xff", metadata=[("x-request-id", "req-9")])
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await (answer.read() if method == "WatchJob" else answer)
    told = details(found.value)
    assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (told["ErrorInfo"].reason, told["ErrorInfo"].metadata["request_id"]) == ("INVALID_MESSAGE", "req-9")
    assert "DecodeError" not in found.value.details()


async def test_a_method_that_does_not_exist_is_unimplemented():
    async with serving(job_service_pb2_grpc.JobServiceServicer()) as server, dialled(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await channel.unary_unary("/trainplane.v1.JobService/DropAllJobs")(b"")
        assert found.value.code() is grpc.StatusCode.UNIMPLEMENTED
