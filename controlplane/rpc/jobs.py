"""`trainplane.v1.JobService`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
from google.api.httpbody_pb2 import HttpBody

from controlplane.domain import spec
from controlplane.domain.errors import InvalidArgument, JobNotFound
from controlplane.domain.job import State
from controlplane.engine.jobs import LogPosition
from controlplane.engine.ports import JobFilter
from controlplane.engine.preparing import Asked
from controlplane.rpc import convert, pages
from controlplane.rpc.errors import metadata
from trainplane.v1 import job_event_pb2, job_pb2, job_service_pb2, job_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from controlplane.domain.event import StoredEvent
    from controlplane.engine.jobs import Jobs
    from controlplane.engine.ports import Vault
    from controlplane.engine.submissions import Submissions, Submitted
    from controlplane.engine.watches import Watches

Context = grpc.aio.ServicerContext[Any, Any]

#: Decided by the credential, once there are credentials.
PROJECT = "default"


class JobService(job_service_pb2_grpc.JobServiceServicer):
    """Takes jobs and tells how they stand; comments in job_service.proto are the promises."""

    def __init__(self, jobs: Jobs, *, submissions: Submissions, watches: Watches, vault: Vault) -> None:
        self._jobs = jobs
        self._submissions = submissions
        self._watches = watches
        self._vault = vault

    async def SubmitTraining(self, request: HttpBody, context: Context) -> job_pb2.Job | bytes:  # noqa: N802
        """A job from a JSON body, strictly parsed."""
        key = metadata(context, "idempotency-key")
        if key and not spec.is_job_id(key):
            raise InvalidArgument(
                field="Idempotency-Key",
                reason="INVALID_FORMAT",
                description="must be 1 to 63 of A-Z a-z 0-9 _ -, as a job_id: it becomes the job's id",
            )
        return self._submitted(await self._submissions.submit(Asked(request.data, PROJECT, key)))

    async def CreateJob(  # noqa: N802
        self,
        request: job_service_pb2.CreateJobRequest,
        context: Context,  # noqa: ARG002
    ) -> job_pb2.Job | bytes:
        """The same from a typed message."""
        asked = Asked(convert.spec_fields(request.spec), PROJECT)
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

    async def ListJobLogs(  # noqa: N802
        self,
        request: job_service_pb2.ListJobLogsRequest,
        context: Context,  # noqa: ARG002
    ) -> job_service_pb2.ListJobLogsResponse:
        """The lines that trainers wrote."""
        limit = pages.size(request.page_size, default=1000, largest=5000)
        position = pages.position(request.page_token, int, int, int)
        start = LogPosition(*position) if position else LogPosition()
        page = await self._jobs.log_page(_name(request.job_id), project=PROJECT, start=start, limit=limit)
        token = ""
        if page.following is not None:
            token = pages.token(page.following.attempt, page.following.rank, page.following.offset_bytes)
        return job_service_pb2.ListJobLogsResponse(lines=map(convert.line_message, page.lines), next_page_token=token)

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
        if submitted.created:
            why = submitted.record.pending_reason
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


def _name(job_id: str) -> str:
    """A job's name.

    Raises:
        JobNotFound: no job can have this name.
    """
    if not spec.is_job_id(job_id):
        raise JobNotFound(job_id)
    return job_id


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
