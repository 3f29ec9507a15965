"""The client of trainplane: async, over gRPC, resuming what breaks.

    async with trainplane.Client() as client:
        job = await client.submit(Path("request.json"))
        async for event in client.watch(job.job_id):
            print(event.type, event.progress.loss)

In a notebook, `trainplane.BlockingClient` has the same methods without `await`. Answers are the messages of
`trainplane.v1`; errors are those of `trainplane.errors`. A client belongs to one event loop.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from google.api.httpbody_pb2 import HttpBody

from trainplane.sdk import documents, spec_message
from trainplane.sdk.connection import DEFAULT_ADDRESS, Address, Connection
from trainplane.sdk.log_tail import LogTail
from trainplane.sdk.retrying import RetryPolicy
from trainplane.sdk.watching import TERMINAL_TYPES, Watch, WatchPolicy
from trainplane.v1 import backend_service_pb2, job_service_pb2, node_service_pb2
from trainplane.v1.backend_service_pb2_grpc import BackendServiceStub
from trainplane.v1.job_pb2 import Job
from trainplane.v1.job_service_pb2_grpc import JobServiceStub
from trainplane.v1.node_service_pb2_grpc import NodeServiceStub
from trainplane.v1.training_spec_pb2 import TrainingSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

    from trainplane.v1.artifact_pb2 import Artifact
    from trainplane.v1.backend_pb2 import Backend
    from trainplane.v1.checkpoint_pb2 import Checkpoint
    from trainplane.v1.job_event_pb2 import JobEvent
    from trainplane.v1.log_line_pb2 import LogLine
    from trainplane.v1.node_pb2 import Node
    from trainplane.v1.preflight_pb2 import Preflight

#: States after which a job does not change.
TERMINAL_STATES = frozenset({Job.SUCCEEDED, Job.FAILED, Job.CANCELLED})


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How patient a client is.

    Attributes:
        retry: for calls, and for the first stream of a watch.
        watch: for a watch, or a log that is followed, that has once heard something.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    watch: WatchPolicy = field(default_factory=WatchPolicy)


class Client:
    """A control plane's client.

    Every call is repeated while nobody answers, within `settings.retry`; all of them may be repeated, as a submit
    carries the job's id, or an idempotency key where the spec has none.

    Args:
        address: `host:port` in clear or `https://host:port`; else `TRAINPLANE_ADDRESS`, else 127.0.0.1:50051.
        token: the credential; else `TRAINPLANE_TOKEN`; may be empty.
        settings: how patient it is.

    Raises:
        ValueError: the address is none, or a token would travel in clear to another machine.
    """

    def __init__(
        self, address: str | None = None, *, token: str | None = None, settings: ClientSettings | None = None
    ) -> None:
        where = address or os.environ.get("TRAINPLANE_ADDRESS") or DEFAULT_ADDRESS
        credential = os.environ.get("TRAINPLANE_TOKEN", "") if token is None else token
        self._settings = settings or ClientSettings()
        self._connection = Connection(Address.parse(where), token=credential, policy=self._settings.retry)

    @property
    def address(self) -> str:
        """`host:port` of the control plane."""
        return self._connection.address.target

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End calls in flight and the connection. Repeatable."""
        await self._connection.close()

    @property
    def _jobs(self) -> Any:
        return JobServiceStub(self._connection.channel)  # type: ignore[no-untyped-call]

    @property
    def _backends(self) -> Any:
        return BackendServiceStub(self._connection.channel)  # type: ignore[no-untyped-call]

    @property
    def _nodes(self) -> Any:
        return NodeServiceStub(self._connection.channel)  # type: ignore[no-untyped-call]

    async def submit(
        self, spec: Mapping[str, Any] | str | bytes | Path | TrainingSpec, *, validate_only: bool = False
    ) -> Job:
        """Submit a job; it is durable when this returns. Safe to repeat.

        JSON goes to the control plane as it is, so that its strict parser sees what the user wrote.

        Args:
            spec: a mapping, JSON text or bytes, a file (`Path`; JSON, or YAML by its suffix), or a message.
            validate_only: check everything, store nothing; the answer shows what would be.

        Raises:
            InvalidRequest: with everything that is wrong.
            JobExists: the job_id is taken by a job with another spec.
            OSError: the file cannot be read.
        """
        if isinstance(spec, TrainingSpec):
            return await self._create(spec, validate_only=validate_only)
        body = documents.as_json(spec)
        if validate_only:
            return await self._create(spec_message.to_message(body), validate_only=True)
        key = documents.idempotency_key(body)
        headers = (("idempotency-key", key),) if key else ()
        request = HttpBody(content_type="application/json", data=body)
        return await self._job(self._jobs.SubmitTraining, request, headers=headers)

    async def validate(self, spec: Mapping[str, Any] | str | bytes | Path | TrainingSpec) -> Preflight:
        """Tell what a submit would come to, and store nothing.

        What is wrong with the request stands in the answer's `violations`.

        Args:
            spec: as for `submit`.

        Raises:
            InvalidRequest: the body is no JSON object.
            OSError: the file cannot be read.
        """
        body = documents.message_as_json(spec) if isinstance(spec, TrainingSpec) else documents.as_json(spec)
        request = HttpBody(content_type="application/json", data=body)
        found: Preflight = await self._connection.unary(self._jobs.ValidateTraining, request)
        return found

    async def _create(self, spec: TrainingSpec, *, validate_only: bool) -> Job:
        request = job_service_pb2.CreateJobRequest(spec=spec, validate_only=validate_only)
        if not validate_only and not spec.HasField("job_id"):
            # Decided here, so that a repeat after an unknown outcome is the same job.
            request.spec.job_id = documents.new_job_id()
        return await self._job(self._jobs.CreateJob, request)

    async def _job(self, method: Any, request: Any, *, headers: Sequence[tuple[str, str]] = ()) -> Job:
        job: Job = await self._connection.unary(method, request, headers=headers)
        return job

    async def get(self, job_id: str) -> Job:
        """A job as it is now; sees whatever was acknowledged before.

        Raises:
            JobNotFound: there is none.
        """
        return await self._job(self._jobs.GetJob, job_service_pb2.GetJobRequest(job_id=job_id))

    async def list(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), page_size: int = 0
    ) -> AsyncGenerator[Job, None]:
        """Yield jobs, newest first; pages are fetched as they are needed.

        Args:
            states: only jobs in one of these, e.g. `RUNNING`.
            labels: only jobs with all of these, each `key=value`.
            page_size: jobs per call; 0 leaves it to the control plane.

        Raises:
            ValueError: there is no such state.
        """
        request = job_service_pb2.ListJobsRequest(page_size=page_size, state=list(states), label=labels)
        while True:
            page = await self._connection.unary(self._jobs.ListJobs, request)
            for job in page.jobs:
                yield job
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; it is CANCELLED when no process of it is left. Repeatable.

        Raises:
            JobNotFound: there is none.
            PreconditionFailed: it has ended already, or its output is being published.
        """
        return await self._job(self._jobs.CancelJob, job_service_pb2.CancelJobRequest(job_id=job_id))

    async def events(self, job_id: str, *, after_sequence: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield the events recorded up to now, in order, without waiting for more.

        Raises:
            JobNotFound: there is none.
        """
        request = job_service_pb2.ListJobEventsRequest(job_id=job_id, after_sequence=after_sequence)
        while True:
            page = await self._connection.unary(self._jobs.ListJobEvents, request)
            for event in page.events:
                yield event
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, job_id: str, *, after_sequence: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield every event after `after_sequence`, recorded and live, each once and in order.

        Ends after the terminal event. Reconnects by itself and goes on where it was.

        Raises:
            JobNotFound: there is none.
            Unavailable: nobody answers any more (`WatchPolicy.patience`).
        """
        watch = Watch(
            open_stream=lambda seen: self._connection.stream(
                self._jobs.WatchJob, job_service_pb2.WatchJobRequest(job_id=job_id, after_sequence=seen)
            ),
            is_over=lambda seen: self._is_over(job_id, seen),
            rebuilt=self._connection.rebuilt,
            retry=self._settings.retry,
            policy=self._settings.watch,
        )
        return watch.after(after_sequence)

    async def _is_over(self, job_id: str, seen: int) -> bool:
        job = await self.get(job_id)
        return job.state in TERMINAL_STATES and job.last_sequence <= seen

    async def wait(self, job_id: str) -> Job:
        """Wait until a job has ended, and return it: its `state` says how.

        Bound it with `asyncio.timeout`. Raises what `watch` raises.
        """
        job = await self.get(job_id)
        if job.state not in TERMINAL_STATES:
            async for event in self.watch(job_id, after_sequence=job.last_sequence):
                if event.type in TERMINAL_TYPES:
                    break
            job = await self.get(job_id)
        return job

    async def logs(self, job_id: str, *, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """Yield the lines that the job's trainers wrote, oldest first; still there after its end.

        Args:
            job_id: the job.
            follow: wait for further lines until the job has ended; reconnects by itself and goes on where it was.

        Raises:
            JobNotFound: there is none.
        """
        if follow:
            tail = LogTail(
                open_stream=lambda position: self._connection.stream(
                    self._jobs.WatchJobLogs, job_service_pb2.WatchJobLogsRequest(job_id=job_id, position=position)
                ),
                rebuilt=self._connection.rebuilt,
                retry=self._settings.retry,
                policy=self._settings.watch,
            )
            async with contextlib.aclosing(tail.lines()) as lines:
                async for line in lines:
                    yield line
            return
        request = job_service_pb2.ListJobLogsRequest(job_id=job_id)
        while True:
            page = await self._connection.unary(self._jobs.ListJobLogs, request)
            for line in page.lines:
                yield line
            if not page.next_page_token or not page.lines:
                return
            request.page_token = page.next_page_token

    async def metrics(self, job_id: str, *, max_points: int = 0) -> Mapping[str, Sequence[tuple[int, float]]]:
        """How training went: for each series (`loss`, `learning_rate` …) its (step, value) points, in order.

        Args:
            job_id: the job.
            max_points: of each series, at most so many, spikes kept; 0 leaves it to the control plane.

        Raises:
            JobNotFound: there is none.
        """
        request = job_service_pb2.ListMetricsRequest(job_id=job_id, max_points=max_points)
        answer = await self._connection.unary(self._jobs.ListMetrics, request)
        return {each.name: tuple(zip(each.steps, each.values, strict=True)) for each in answer.series}

    async def backends(self) -> Sequence[Backend]:
        """The training engines there are, by name, with the JSON Schema of the requests that each takes."""
        request = backend_service_pb2.ListBackendsRequest()
        answer = await self._connection.unary(self._backends.ListBackends, request)
        return tuple(answer.backends)

    async def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        """The newest checkpoints that a job's trainers keep: newest attempt first, then the greatest step.

        Raises:
            JobNotFound: there is none.
        """
        request = job_service_pb2.ListCheckpointsRequest(job_id=job_id)
        answer = await self._connection.unary(self._jobs.ListCheckpoints, request)
        return tuple(answer.checkpoints)

    async def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The published files of a job, by path; none before SUCCEEDED.

        Raises:
            JobNotFound: there is none.
        """
        request = job_service_pb2.ListArtifactsRequest(job_id=job_id)
        answer = await self._connection.unary(self._jobs.ListArtifacts, request)
        return tuple(answer.artifacts)

    async def nodes(self) -> Sequence[Node]:
        """Every node that ever joined, by name."""
        answer = await self._connection.unary(self._nodes.ListNodes, node_service_pb2.ListNodesRequest())
        return tuple(answer.nodes)
