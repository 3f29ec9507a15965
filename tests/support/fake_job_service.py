"""A control plane's public services on a real gRPC server, with answers that a test writes down.

It keeps jobs, events, logs and nodes that the test puts there, refuses what the test says, cuts streams where the
test says, and notes every call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from trainplane.v1 import backend_service_pb2, job_service_pb2, node_service_pb2
from trainplane.v1.backend_service_pb2_grpc import BackendServiceServicer, add_BackendServiceServicer_to_server
from trainplane.v1.job_event_pb2 import JobEvent
from trainplane.v1.job_pb2 import Job, Progress
from trainplane.v1.job_service_pb2_grpc import JobServiceServicer, add_JobServiceServicer_to_server
from trainplane.v1.node_service_pb2_grpc import NodeServiceServicer, add_NodeServiceServicer_to_server
from trainplane.v1.preflight_pb2 import Preflight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from trainplane.v1.artifact_pb2 import Artifact
    from trainplane.v1.checkpoint_pb2 import Checkpoint
    from trainplane.v1.log_line_pb2 import LogLine
    from trainplane.v1.metric_pb2 import MetricSeries
    from trainplane.v1.node_pb2 import Node


def status(
    code: grpc.StatusCode,
    message: str,
    *,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[tuple[str, str, str]] = (),
    retry_after_seconds: int = 0,
) -> status_pb2.Status:
    """A `google.rpc.Status` with the details that the control plane sends."""
    details: list[Any] = []
    if violations:
        bad = error_details_pb2.BadRequest()
        for where, why, text in violations:
            bad.field_violations.add(field=where, reason=why, description=text)
        details.append(bad)
    if retry_after_seconds:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = retry_after_seconds
        details.append(retry)
    if reason:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="trainplane.dev", metadata=metadata or {}))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def event(job_id: str, sequence: int, kind: str, state: int, **more: Any) -> JobEvent:
    """An event with a plausible time."""
    made = JobEvent(job_id=job_id, sequence=sequence, type=kind, state=state, attempt=1, uid=f"uid-{job_id}", **more)
    made.time.FromSeconds(1_750_000_000 + sequence)
    return made


def story(job_id: str, *, steps: int = 3, end: str = "job.succeeded") -> list[JobEvent]:
    """The events of a job that runs through: queued, starting, started, `steps` times progress, the end."""
    final = {"job.succeeded": Job.SUCCEEDED, "job.failed": Job.FAILED, "job.cancelled": Job.CANCELLED}[end]
    kinds: list[tuple[str, int, dict[str, Any]]] = [("job.queued", Job.QUEUED, {}), ("job.starting", Job.STARTING, {})]
    kinds.append(("job.started", Job.RUNNING, {"phase": "TRAINING"}))
    for step in range(1, steps + 1):
        progress = Progress(step=step, total_steps=steps, loss=3.0 / step, tokens_per_second=400)
        kinds.append(("job.progress", Job.RUNNING, {"phase": "TRAINING", "progress": progress}))
    failed = {"reason": "DATASET_INVALID", "message": "datasets[0].source: row 7 is no JSON"}
    kinds.append((end, final, failed if end == "job.failed" else {}))
    return [event(job_id, number, kind, state, **more) for number, (kind, state, more) in enumerate(kinds, start=1)]


@dataclass
class Call:
    """One call that came in."""

    method: str
    request: Any
    metadata: dict[str, str]


@dataclass
class FakeJobService(JobServiceServicer, NodeServiceServicer, BackendServiceServicer):
    """See the module. `refusals[method]` are answered first, one a call; `cut_after[n]` ends the n-th stream early."""

    jobs: dict[str, Job] = field(default_factory=dict)
    events: dict[str, list[JobEvent]] = field(default_factory=dict)
    lines: list[LogLine] = field(default_factory=list)
    files: list[Artifact] = field(default_factory=list)
    kept: list[Checkpoint] = field(default_factory=list)
    machines: list[Node] = field(default_factory=list)
    refusals: defaultdict[str, list[status_pb2.Status]] = field(default_factory=lambda: defaultdict(list))
    calls: list[Call] = field(default_factory=list)
    series: list[MetricSeries] = field(default_factory=list)
    streams: list[list[Any]] = field(default_factory=list)
    """Scripts of the first streams: messages to send, and a code to break with; then what `events` holds."""
    preflight: Preflight = field(default_factory=Preflight)
    page_size: int = 2

    def add(self, job_id: str, state: int = Job.QUEUED, **more: Any) -> Job:
        """Put a job there."""
        self.jobs[job_id] = Job(job_id=job_id, uid=f"uid-{job_id}", project="default", state=state, **more)
        self.jobs[job_id].create_time.FromSeconds(1_750_000_000)
        return self.jobs[job_id]

    def add_story(self, job_id: str, *, steps: int = 3, end: str = "job.succeeded") -> Job:
        """Put a job there that has run through."""
        self.events[job_id] = story(job_id, steps=steps, end=end)
        last = self.events[job_id][-1]
        job = self.add(
            job_id,
            last.state,
            last_sequence=last.sequence,
            reason=last.reason,
            message=last.message,
            output_uri="file:///out/",
        )
        job.start_time.FromSeconds(1_750_000_003)
        job.end_time.FromSeconds(1_750_000_078)
        return job

    async def _noted(self, method: str, request: Any, context: Any) -> None:
        self.calls.append(Call(method, request, {str(key): str(value) for key, value in context.invocation_metadata()}))
        if self.refusals[method]:
            await context.abort_with_status(rpc_status.to_status(self.refusals[method].pop(0)))

    async def _found(self, job_id: str, context: Any) -> Job:
        if job_id not in self.jobs:
            missing = status(grpc.StatusCode.NOT_FOUND, f"there is no job {job_id!r}", reason="JOB_NOT_FOUND")
            await context.abort_with_status(rpc_status.to_status(missing))
        return self.jobs[job_id]

    async def SubmitTraining(self, request, context):  # noqa: N802
        await self._noted("SubmitTraining", request, context)
        wanted = json.loads(request.data).get("job_id") or self.calls[-1].metadata["idempotency-key"]
        return self.jobs.get(wanted) or self.add(wanted, webhook_signing_secret="whsec_c2VjcmV0")

    async def CreateJob(self, request, context):  # noqa: N802
        await self._noted("CreateJob", request, context)
        if request.validate_only:
            return Job(job_id=request.spec.job_id, effective_spec=request.spec)
        return self.add(request.spec.job_id, spec=request.spec)

    async def ValidateTraining(self, request, context):  # noqa: N802
        await self._noted("ValidateTraining", request, context)
        return self.preflight

    async def GetJob(self, request, context):  # noqa: N802
        await self._noted("GetJob", request, context)
        return await self._found(request.job_id, context)

    async def ListJobs(self, request, context):  # noqa: N802
        await self._noted("ListJobs", request, context)
        wanted = [job for job in self.jobs.values() if not request.state or job.state in request.state]
        page, token = self._page(wanted, request.page_token)
        return job_service_pb2.ListJobsResponse(jobs=page, next_page_token=token)

    async def CancelJob(self, request, context):  # noqa: N802
        await self._noted("CancelJob", request, context)
        job = await self._found(request.job_id, context)
        job.state = Job.CANCELLED if job.state == Job.QUEUED else Job.CANCELLING
        return job

    async def ListJobEvents(self, request, context):  # noqa: N802
        await self._noted("ListJobEvents", request, context)
        await self._found(request.job_id, context)
        after = [each for each in self.events.get(request.job_id, []) if each.sequence > request.after_sequence]
        page, token = self._page(after, request.page_token)
        return job_service_pb2.ListJobEventsResponse(events=page, next_page_token=token)

    async def WatchJob(self, request, context):  # noqa: N802
        await self._noted("WatchJob", request, context)
        if self.streams:
            for step in self.streams.pop(0):
                if isinstance(step, grpc.StatusCode):
                    await context.abort(step, "cut by the test")
                yield step
            return
        await self._found(request.job_id, context)
        sent = request.after_sequence
        while True:
            for each in self.events.get(request.job_id, []):
                if each.sequence > sent:
                    sent = each.sequence
                    yield each
                    if each.type in ("job.succeeded", "job.failed", "job.cancelled"):
                        return
            await asyncio.sleep(0.01)

    async def ListJobLogs(self, request, context):  # noqa: N802
        await self._noted("ListJobLogs", request, context)
        job = await self._found(request.job_id, context)
        start = int(request.page_token or 0)
        page = self.lines[start : start + self.page_size]
        over = job.HasField("end_time") and start + len(page) == len(self.lines)
        token = "" if over else str(start + len(page))
        return job_service_pb2.ListJobLogsResponse(lines=page, next_page_token=token)

    async def WatchJobLogs(self, request, context):  # noqa: N802
        await self._noted("WatchJobLogs", request, context)
        if self.streams:
            for step in self.streams.pop(0):
                if isinstance(step, grpc.StatusCode):
                    await context.abort(step, "cut by the test")
                yield step
            return
        job = await self._found(request.job_id, context)
        start = int(request.position or 0)
        while not (job.HasField("end_time") and start == len(self.lines)):
            page = self.lines[start : start + self.page_size]
            start += len(page)
            yield job_service_pb2.WatchJobLogsResponse(lines=page, position=str(start))
            await asyncio.sleep(0.001)

    async def ListMetrics(self, request, context):  # noqa: N802
        await self._noted("ListMetrics", request, context)
        await self._found(request.job_id, context)
        return job_service_pb2.ListMetricsResponse(series=self.series)

    async def ListBackends(self, request, context):  # noqa: N802
        await self._noted("ListBackends", request, context)
        return backend_service_pb2.ListBackendsResponse(backends=[{"name": "peft", "schema": {"type": "object"}}])

    async def ListCheckpoints(self, request, context):  # noqa: N802
        await self._noted("ListCheckpoints", request, context)
        await self._found(request.job_id, context)
        return job_service_pb2.ListCheckpointsResponse(checkpoints=self.kept)

    async def ListArtifacts(self, request, context):  # noqa: N802
        await self._noted("ListArtifacts", request, context)
        await self._found(request.job_id, context)
        return job_service_pb2.ListArtifactsResponse(artifacts=self.files)

    async def ListNodes(self, request, context):  # noqa: N802
        await self._noted("ListNodes", request, context)
        return node_service_pb2.ListNodesResponse(nodes=self.machines)

    def _page(self, items: list[Any], token: str) -> tuple[list[Any], str]:
        start = int(token or 0)
        end = start + self.page_size
        return items[start:end], str(end) if end < len(items) else ""


@contextlib.asynccontextmanager
async def serving(service: FakeJobService, *, port: int = 0) -> AsyncIterator[str]:
    """Serve on a free loopback port; yields `host:port`."""
    server = grpc.aio.server()
    add_JobServiceServicer_to_server(service, server)
    add_NodeServiceServicer_to_server(service, server)
    add_BackendServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(grace=None)
