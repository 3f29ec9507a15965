"""A real gRPC server with canned behaviours, in the place of the control plane. A job's name says what it does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from trainplane.v1 import (
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    log_line_pb2,
    node_pb2,
    node_service_pb2,
    node_service_pb2_grpc,
    training_spec_pb2,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Seen:
    """What reached the server: the last request, and how often it was asked."""

    request: Any = None
    metadata: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    seconds_left: float | None = None


def invalid_spec(request_id: str) -> status_pb2.Status:
    """Two violations, as the control plane tells them."""
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="customization.rank", reason="OUT_OF_RANGE", description="from 1 to 1024, got 0")
    bad.field_violations.add(field="datasets[0].sauce", reason="UNKNOWN_FIELD", description="did you mean source?")
    info = error_details_pb2.ErrorInfo(
        reason="INVALID_SPEC", domain="trainplane.dev", metadata={"request_id": request_id}
    )
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message='2 fields are "ungültig"')
    for detail in (bad, info):
        status.details.add().Pack(detail)
    return status


def many_violations() -> status_pb2.Status:
    """As much as the control plane ever says at once: 6 KiB of details."""
    bad = error_details_pb2.BadRequest()
    while bad.ByteSize() < 6 * 1024 - 60:
        bad.field_violations.add(field=f"f{len(bad.field_violations)}", reason="UNKNOWN_FIELD", description="no such")
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="many fields are invalid")
    status.details.add().Pack(bad)
    return status


class CannedJobs(job_service_pb2_grpc.JobServiceServicer):
    """Echoes, fails, hangs and streams as it is asked to."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.next_event = asyncio.Event()
        self.ended = asyncio.Event()
        self.held_back = asyncio.Event()

    def _note(self, request: Any, context: Any) -> None:
        self.seen.request = request
        self.seen.metadata = dict(context.invocation_metadata())
        self.seen.calls += 1
        self.seen.seconds_left = context.time_remaining()

    async def SubmitTraining(self, request: HttpBody, context: Any) -> job_pb2.Job:  # noqa: N802
        self._note(request, context)
        return job_pb2.Job(job_id="submitted")

    async def SubmitBackendTraining(self, request: Any, context: Any) -> job_pb2.Job:  # noqa: N802
        self._note(request, context)
        return job_pb2.Job(job_id="submitted")

    async def CancelJob(self, request: Any, context: Any) -> job_pb2.Job:  # noqa: N802
        self._note(request, context)
        return job_pb2.Job(job_id=request.job_id, state=job_pb2.Job.CANCELLED)

    async def GetJob(self, request: Any, context: Any) -> job_pb2.Job:  # noqa: N802
        self._note(request, context)
        if request.job_id == "invalid":
            status = invalid_spec(self.seen.metadata.get("x-request-id", ""))
            await context.abort_with_status(rpc_status.to_status(status))
        if request.job_id == "hangs":
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        if request.job_id.startswith("code-"):
            code = next(code for code in grpc.StatusCode if code.value[0] == int(request.job_id.removeprefix("code-")))
            await context.abort(code, f"told to say {code.name}")
        if request.job_id == "verbose":
            await context.abort_with_status(rpc_status.to_status(many_violations()))
        spec = training_spec_pb2.TrainingSpec(priority=0, base_model={"model_name": "m"})
        return job_pb2.Job(job_id=request.job_id, state=job_pb2.Job.RUNNING, spec=spec)

    async def ListJobs(self, request: Any, context: Any) -> job_service_pb2.ListJobsResponse:  # noqa: N802
        self._note(request, context)
        return job_service_pb2.ListJobsResponse()

    async def ListJobEvents(self, request: Any, context: Any) -> job_service_pb2.ListJobEventsResponse:  # noqa: N802
        self._note(request, context)
        return job_service_pb2.ListJobEventsResponse()

    async def ListJobLogs(self, request: Any, context: Any) -> job_service_pb2.ListJobLogsResponse:  # noqa: N802
        self._note(request, context)
        # `page_size` control characters of one byte each, of which JSON makes six.
        lines = [log_line_pb2.LogLine(text="\x01" * 1000)] * (request.page_size // 1000)
        return job_service_pb2.ListJobLogsResponse(lines=lines)

    async def StreamEvents(self, request: Any, context: Any) -> AsyncIterator[HttpBody]:  # noqa: N802
        self._note(request, context)
        if request.job_id == "missing":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such job")
        if request.job_id == "endless":
            await self._until_held_back(context)
            return
        try:
            yield _event(1)
            await self.next_event.wait()
            yield _event(2)
        finally:
            self.ended.set()

    async def StreamLogs(self, request: Any, context: Any) -> AsyncIterator[HttpBody]:  # noqa: N802
        self._note(request, context)
        yield HttpBody(content_type="text/event-stream", data=b"event: end\ndata: {}\n\n")

    async def _until_held_back(self, context: Any) -> None:
        chunk = HttpBody(content_type="text/event-stream", data=b": " + b"x" * 65_536 + b"\n\n")
        for _ in range(1000):
            try:
                await asyncio.wait_for(context.write(chunk), 2)
            except TimeoutError:
                self.held_back.set()
                return


class CannedNodes(node_service_pb2_grpc.NodeServiceServicer):
    """One node."""

    async def ListNodes(self, request: Any, context: Any) -> node_service_pb2.ListNodesResponse:  # noqa: N802
        return node_service_pb2.ListNodesResponse(nodes=[node_pb2.Node(name="gpu-01", state=node_pb2.Node.READY)])


@dataclass(frozen=True)
class Canned:
    """The running server."""

    address: str
    jobs: CannedJobs
    health: health.aio.HealthServicer

    @property
    def seen(self) -> Seen:
        return self.jobs.seen


@asynccontextmanager
async def canned_control_plane(*, port: int = 0) -> AsyncIterator[Canned]:
    """Serve on loopback until the block ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_metadata_size", 16_384)])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    canned = Canned(f"127.0.0.1:{port}", CannedJobs(), health.aio.HealthServicer())
    job_service_pb2_grpc.add_JobServiceServicer_to_server(canned.jobs, server)
    node_service_pb2_grpc.add_NodeServiceServicer_to_server(CannedNodes(), server)
    health_pb2_grpc.add_HealthServicer_to_server(canned.health, server)
    await canned.health.set("", SERVING)
    await canned.health.set("readiness", SERVING)
    await server.start()
    try:
        yield canned
    finally:
        await server.stop(None)


def _event(sequence: int) -> HttpBody:
    data = f"id: {sequence}\nevent: job.progress\ndata: {{}}\n\n".encode()
    return HttpBody(content_type="text/event-stream", data=data)
