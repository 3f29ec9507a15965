"""`trainplane.v1.JobService`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.api.httpbody_pb2 import HttpBody

from controlplane.domain import spec
from controlplane.domain.errors import InvalidArgument, InvalidSpec, Violation
from controlplane.domain.job import State
from controlplane.engine.ports import JobFilter
from controlplane.engine.preparing import Asked
from controlplane.engine.submissions import Created
from controlplane.rpc import convert, pages
from controlplane.rpc.errors import metadata
from controlplane.rpc.logs import LogMethods
from controlplane.rpc.names import PROJECT
from controlplane.rpc.names import job_name as _name
from trainplane.v1 import job_event_pb2, job_pb2, job_service_pb2, job_service_pb2_grpc, preflight_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from controlplane.domain.event import StoredEvent
    from controlplane.engine.jobs import Jobs
    from controlplane.engine.log_reading import LogReader
    from controlplane.engine.metrics import Metrics
    from controlplane.engine.ports import Vault
    from controlplane.engine.preflights import Preflights
    from controlplane.engine.submissions import Submissions, Submitted
    from controlplane.engine.watches import Watches

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Readers:
    """Where a job's bulk is read: what its trainers wrote, and what they measured."""

    logs: LogReader
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Doors:
    """Where requests go: to become jobs, or to be told what would become of them."""

    submissions: Submissions
    preflights: Preflights


class JobService(LogMethods, job_service_pb2_grpc.JobServiceServicer):
    """Takes jobs and tells how they stand; comments in job_service.proto are the promises."""

    def __init__(self, jobs: Jobs, *, doors: Doors, watches: Watches, readers: Readers, vault: Vault) -> None:
        self._jobs = jobs
        self._logs = readers.logs
        self._metrics = readers.metrics
        self._submissions = doors.submissions
        self._preflights = doors.preflights
        self._watches = watches
        self._vault = vault

    async def SubmitTraining(self, request: HttpBody, context: Context) -> job_pb2.Job | bytes:  # noqa: N802
        """A job from a JSON body, strictly parsed."""
        return self._submitted(await self._submissions.submit(Asked(request.data, PROJECT, _key(context))))

    async def SubmitBackendTraining(  # noqa: N802
        self, request: job_service_pb2.SubmitBackendTrainingRequest, context: Context
    ) -> job_pb2.Job | bytes:
        """The same with the backend chosen by address."""
        raw = spec.parse(request.body.data)
        said = raw.get("backend")
        raw["backend"] = request.backend
        if said is not None and said != request.backend:
            await self._contradicted(raw)
        return self._submitted(await self._submissions.submit(Asked(raw, PROJECT, _key(context))))

    async def ValidateTraining(self, request: HttpBody, context: Context) -> preflight_pb2.Preflight:  # noqa: N802, ARG002
        """What a submit would come to."""
        return convert.preflight_message(await self._preflights.look(request.data, project=PROJECT))

    async def _contradicted(self, raw: dict[str, Any]) -> NoReturn:
        """Refuses a body that names another backend than the address, with all else that is wrong with it."""
        wrong = "the address chooses the backend: leave it out, or say the same"
        violations = [Violation("backend", "CONTRADICTION", wrong)]
        try:
            await self._submissions.preview(Asked(raw, PROJECT))
        except InvalidSpec as error:
            violations += error.violations
        raise InvalidSpec(violations)

    async def CreateJob(  # noqa: N802
        self,
        request: job_service_pb2.CreateJobRequest,
        context: Context,
    ) -> job_pb2.Job | bytes:
        """The same from a typed message."""
        asked = Asked(convert.spec_fields(request.spec), PROJECT, _key(context))
        if request.validate_only:
            return (await self._submissions.preview(asked)).answer
        return self._submitted(await self._submissions.submit(asked))

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: Context) -> job_pb2.Job:  # noqa: N802, ARG002
        """A job as SQL has it."""
        return convert.job_message(await self._jobs.get(_name(request.job_id), project=PROJECT))

    async def ListJobs(  # noqa: N802
        self,
        request: job_service_pb2.ListJobsRequest,
        context: Context,  # noqa: ARG002
    ) -> job_service_pb2.ListJobsResponse:
        """Newest first."""
        limit = pages.size(request.page_size, default=50, largest=500)
        before = pages.position(request.page_token, str)
        chosen = JobFilter(
            project=PROJECT,
            states=[State(job_pb2.Job.State.Name(state)) for state in _known(request.state)],
            labels=_labels(request.label),
            before_uid=before[0] if before else "",
        )
        found = await self._jobs.page(chosen, limit=limit + 1)
        answer = job_service_pb2.ListJobsResponse()
        for view in found[:limit]:
            answer.jobs.append(convert.job_message(view))
            if answer.ByteSize() > pages.MAX_BYTES:
                break
        if len(answer.jobs) < len(found):
            answer.next_page_token = pages.token(answer.jobs[-1].uid)
        return answer

    async def CancelJob(self, request: job_service_pb2.CancelJobRequest, context: Context) -> job_pb2.Job:  # noqa: N802, ARG002
        """Ends a job."""
        return convert.job_message(await self._jobs.cancel(_name(request.job_id), project=PROJECT))

    async def ListJobEvents(  # noqa: N802
        self,
        request: job_service_pb2.ListJobEventsRequest,
        context: Context,  # noqa: ARG002
    ) -> job_service_pb2.ListJobEventsResponse:
        """A job's events after a number."""
        limit = pages.size(request.page_size, default=500, largest=1000)
        position = pages.position(request.page_token, int)
        after = position[0] if position else _after(request.after_sequence)
        found = await self._jobs.events(_name(request.job_id), project=PROJECT, after=after, limit=limit + 1)
        answer = job_service_pb2.ListJobEventsResponse()
        size = 0
        for event in found[:limit]:
            message = convert.event_message(event)
            answer.events.append(message)
            size += message.ByteSize()
            if size > pages.MAX_BYTES:
                break
        if len(answer.events) < len(found):
            answer.next_page_token = pages.token(answer.events[-1].sequence)
        return answer

    async def WatchJob(  # noqa: N802
        self,
        request: job_service_pb2.WatchJobRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[job_event_pb2.JobEvent]:
        """Every event after a number, then live."""
        async with aclosing(self._follow(request.job_id, _after(request.after_sequence))) as rows:
            async for row in rows:
                for event in row:
                    yield convert.event_message(event)
                if not row:
                    yield job_event_pb2.JobEvent()

    async def StreamEvents(  # noqa: N802
        self, request: job_service_pb2.StreamEventsRequest, context: Context
    ) -> AsyncIterator[HttpBody]:
        """The same as server-sent events."""
        last = metadata(context, "last-event-id")
        after = int(last) if last.isdecimal() and len(last) < 10 else _after(request.after_sequence)
        async with aclosing(self._follow(request.job_id, after)) as rows:
            async for row in rows:
                lines = "".join(f"id: {e.sequence}\nevent: {e.type}\ndata: {e.json}\n\n" for e in row)
                yield HttpBody(content_type="text/event-stream", data=(lines or ": keep-alive\n\n").encode())

    async def ListMetrics(  # noqa: N802
        self,
        request: job_service_pb2.ListMetricsRequest,
        context: Context,  # noqa: ARG002
    ) -> job_service_pb2.ListMetricsResponse:
        """How training went."""
        most = _most_points(request.max_points)
        found = await self._metrics.curves(_name(request.job_id), project=PROJECT, most=most)
        return job_service_pb2.ListMetricsResponse(series=[convert.series_message(*each) for each in found.items()])

    async def ListCheckpoints(  # noqa: N802
        self,
        request: job_service_pb2.ListCheckpointsRequest,
        context: Context,  # noqa: ARG002
    ) -> job_service_pb2.ListCheckpointsResponse:
        """From what a later attempt may go on."""
        found = await self._jobs.checkpoints(_name(request.job_id), project=PROJECT)
        return job_service_pb2.ListCheckpointsResponse(checkpoints=map(convert.checkpoint_message, found))

    async def ListArtifacts(  # noqa: N802
        self,
        request: job_service_pb2.ListArtifactsRequest,
        context: Context,  # noqa: ARG002
    ) -> job_service_pb2.ListArtifactsResponse:
        """What a job published."""
        found = await self._jobs.artifacts(_name(request.job_id), project=PROJECT)
        return job_service_pb2.ListArtifactsResponse(artifacts=map(convert.artifact_message, found))

    def _submitted(self, submitted: Submitted) -> job_pb2.Job | bytes:
        """What was rendered with the job; of a repeat, the job as it stands now."""
        if isinstance(submitted, Created):
            why = submitted.pending_reason
            return submitted.answer + convert.pending_bytes(why) if why else submitted.answer
        view = self._jobs.view(submitted.record)
        callbacks, artifacts = view.sent.get("callbacks", {}), view.sent.get("artifacts", {})
        listens = callbacks.get("webhook_url") or artifacts.get("status_stream_url")
        secret = self._vault.signing_secret(submitted.record.job.uid) if listens else ""
        return convert.job_message(view, signing_secret=secret)

    async def _follow(self, job_id: str, after: int) -> AsyncGenerator[Sequence[StoredEvent], None]:
        uid = await self._jobs.uid(_name(job_id), project=PROJECT)
        async with aclosing(self._watches.follow(uid, after=after)) as rows:
            async for row in rows:
                yield row


def _key(context: Context) -> str:
    """The idempotency key of a submit; empty: there is none.

    Raises:
        InvalidArgument: it could not be a job's id, which it becomes.
    """
    key = metadata(context, "idempotency-key")
    if key and not spec.is_job_id(key):
        raise InvalidArgument(
            field="Idempotency-Key",
            reason="INVALID_FORMAT",
            description="must be 1 to 63 of A-Z a-z 0-9 _ -, as a job_id: it becomes the job's id",
        )
    return key


def _most_points(asked: int) -> int:
    """How many points of a series to show.

    Raises:
        InvalidArgument: it is out of range.
    """
    if asked and not 10 <= asked <= 1500:
        raise InvalidArgument(
            field="max_points", reason="OUT_OF_RANGE", description=f"must be from 10 to 1500, got {asked}"
        )
    return asked or 500


def _known(states: Sequence[int]) -> Sequence[int]:
    """States of the filter.

    Raises:
        InvalidArgument: one is unspecified or unknown.
    """
    for state in states:
        if not state or state not in job_pb2.Job.State.values():
            names = ", ".join(job_pb2.Job.State.keys()[1:])
            raise InvalidArgument(field="state", reason="UNKNOWN_VALUE", description=f"must be one of {names}")
    return states


def _labels(asked: Sequence[str]) -> dict[str, str]:
    """Labels of the filter, each `key=value`.

    Raises:
        InvalidArgument: one is not.
    """
    found = {}
    for label in asked:
        key, sign, value = label.partition("=")
        if not sign or not key or "\0" in label:
            raise InvalidArgument(field="label", reason="INVALID_FORMAT", description="must be key=value")
        found[key] = value
    return found


def _after(sequence: int) -> int:
    """A sequence to go on after.

    Raises:
        InvalidArgument: it is negative.
    """
    if sequence < 0:
        raise InvalidArgument(field="after_sequence", reason="OUT_OF_RANGE", description="must not be negative")
    return sequence
