"""Messages to the domain and back: total functions, no decisions. Protobuf stops here."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.job import State
from trainplane.v1 import (
    artifact_pb2,
    checkpoint_pb2,
    job_event_pb2,
    job_pb2,
    log_line_pb2,
    metric_pb2,
    node_pb2,
    preflight_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from controlplane.domain.artifact import Artifact
    from controlplane.domain.attempt import Attempt
    from controlplane.domain.checkpoint import Checkpoint
    from controlplane.domain.event import StoredEvent
    from controlplane.domain.job import Progress
    from controlplane.domain.metrics import Curve
    from controlplane.domain.preflight import Preflight
    from controlplane.engine.jobs import JobView
    from controlplane.engine.log_reading import Line
    from controlplane.engine.nodes import NodeView
    from trainplane.backends.estimate import Estimate

_STRUCT = Struct.DESCRIPTOR
_STATES: dict[State, job_pb2.Job.State] = {
    domain: job_pb2.Job.State.Value(domain.value)  # type: ignore[misc]  # the stub answers int
    for domain in State
}
_CHECK_STATUSES = dict(preflight_pb2.Check.Status.items())
_NODE_STATES = dict(node_pb2.Node.State.items())


def timestamp(time_us: int) -> Timestamp | None:
    """Microseconds since the epoch; 0 is unset."""
    if not time_us:
        return None
    seconds, micros = divmod(time_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def spec_fields(message: Message) -> dict[str, Any]:
    """A TrainingSpec as the plain dict that its JSON would be: only what is set.

    Raises:
        InvalidArgument: the message has fields that this server does not know, which must not be ignored.
    """
    if len(UnknownFieldSet(message)):
        name = message.DESCRIPTOR.full_name
        raise InvalidArgument(
            field="spec",
            reason="UNKNOWN_FIELD",
            description=f"{name} has fields that this server does not know: the client is newer than the server",
        )
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None:
            found[field.name] = list(value) if field.is_repeated else value
        elif kind is _STRUCT:
            found[field.name] = _plain(value)
        elif kind.GetOptions().map_entry:
            found[field.name] = dict(value)
        elif field.is_repeated:
            found[field.name] = [spec_fields(item) for item in value]
        else:
            found[field.name] = spec_fields(value)
    return found


def _plain(struct: Struct) -> dict[str, Any]:
    """A Struct as JSON has it; its numbers are doubles, whole ones are told as whole."""
    return {key: _plain_value(value) for key, value in struct.fields.items()}


def _plain_value(value: Any) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _plain(value.struct_value)
        case "list_value":
            return [_plain_value(item) for item in value.list_value.values]
        case _:
            return None


def progress_message(progress: Progress) -> job_pb2.Progress:
    """How far training is."""
    return job_pb2.Progress(
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=progress.epoch,
        loss=progress.loss,
        learning_rate=progress.learning_rate,
        grad_norm=progress.grad_norm,
        tokens_per_second=progress.tokens_per_second,
        gpu_memory_bytes=progress.gpu_memory_bytes,
        estimated_end_time=timestamp(progress.estimated_end_time_us),
        eval_loss_before=progress.eval_loss_before,
        eval_loss=progress.eval_loss,
    )


def attempt_message(attempt: Attempt) -> job_pb2.Attempt:
    """One try of a job."""
    return job_pb2.Attempt(
        number=attempt.number,
        node=attempt.node,
        devices=[str(device) for device in attempt.devices],
        start_time=timestamp(attempt.start_time_us),
        end_time=timestamp(attempt.end_time_us),
        reason=attempt.reason,
        other_nodes=attempt.others,
    )


@lru_cache(maxsize=256)
def _warnings(text: str) -> tuple[job_pb2.Warning, ...]:
    return tuple(job_pb2.Warning(**warning) for warning in json.loads(text))


def job_message(view: JobView, *, signing_secret: str = "") -> job_pb2.Job:
    """A job as clients see it."""
    record, job = view.record, view.record.job
    return job_pb2.Job(
        job_id=job.job_id,
        uid=job.uid,
        project=job.project,
        state=_STATES[job.state],
        phase=job.phase,
        reason=job.reason,
        message=job.message,
        pending_reason=record.pending_reason,
        queue_position=view.queue_position,
        attempt=job.attempt,
        attempts=[attempt_message(attempt) for attempt in record.attempts],
        progress=progress_message(job.progress) if job.progress else None,
        # Made in place from the fields; a message would be copied.
        spec=view.sent,
        effective_spec=view.effective,
        base_model_commit=record.base_model_commit,
        warnings=_warnings(record.warnings),
        labels=record.labels,
        retry_of=record.retry_of,
        output_uri=record.output_uri,
        last_sequence=job.last_sequence,
        create_time=timestamp(record.create_time_us),
        start_time=timestamp(job.start_time_us),
        update_time=timestamp(job.update_time_us),
        end_time=timestamp(job.end_time_us),
        webhook_signing_secret=signing_secret or None,
    )


@lru_cache(maxsize=64)
def pending_bytes(why: str) -> bytes:
    """A `Job` with this pending reason alone: appended to a serialized job, it sets it (protobuf merges messages)."""
    return job_pb2.Job(pending_reason=why).SerializeToString()


@lru_cache(maxsize=1024)
def event_message(event: StoredEvent) -> job_event_pb2.JobEvent:
    """The public event, from the JSON that was rendered once. All watchers share it: not to be changed."""
    data = json.loads(event.json)["data"]
    data["state"] = job_pb2.Job.State.Value(data["state"])
    data["time"] = timestamp(event.time_us)
    progress = data.get("progress")
    if progress is not None and "estimated_end_time" in progress:
        end = Timestamp()
        end.FromJsonString(progress["estimated_end_time"])
        progress["estimated_end_time"] = end
    return job_event_pb2.JobEvent(**data)


def artifact_message(artifact: Artifact) -> artifact_pb2.Artifact:
    """A published file."""
    return artifact_pb2.Artifact(
        path=artifact.path, uri=artifact.uri, size_bytes=artifact.size_bytes, sha256=artifact.sha256
    )


def checkpoint_message(checkpoint: Checkpoint) -> checkpoint_pb2.Checkpoint:
    """A checkpoint on its node."""
    return checkpoint_pb2.Checkpoint(
        step=checkpoint.step,
        attempt=checkpoint.attempt,
        node=checkpoint.node,
        size_bytes=checkpoint.size_bytes,
        manifest_digest=checkpoint.manifest_digest,
        create_time=timestamp(checkpoint.create_time_us),
    )


def line_message(line: Line) -> log_line_pb2.LogLine:
    """One line of a log."""
    return log_line_pb2.LogLine(attempt=line.attempt, rank=line.rank, text=line.text)


def series_message(name: str, curve: Curve) -> metric_pb2.MetricSeries:
    """One series of metrics."""
    return metric_pb2.MetricSeries(name=name, steps=curve.steps, values=curve.values)


def node_message(view: NodeView) -> node_pb2.Node:
    """A node with who holds its devices."""
    node, inventory = view.node, view.node.inventory
    return node_pb2.Node(
        name=node.name,
        state=_NODE_STATES[node.state.value],  # type: ignore[arg-type]
        reason=node.reason,
        runner=inventory.runner,
        simulated=inventory.simulated,
        agent_version=node.agent_version,
        last_sync_time=timestamp(node.last_sync_time_us),
        gpus=[
            node_pb2.Gpu(
                index=gpu.index, type=gpu.type, memory_bytes=gpu.memory_bytes, job_id=view.holders.get(gpu.index, "")
            )
            for gpu in inventory.gpus
        ],
        cpus=inventory.cpus,
        cpus_free=max(view.cpus_free, 0),
        memory_gb=inventory.memory_bytes / 2**30,
        memory_gb_free=max(view.memory_bytes_free, 0) / 2**30,
        labels=inventory.labels,
    )


def preflight_message(found: Preflight) -> preflight_pb2.Preflight:
    """What a request would come to."""
    return preflight_pb2.Preflight(
        valid=found.valid,
        violations=[
            preflight_pb2.Violation(field=v.field, reason=v.reason, description=v.description) for v in found.violations
        ],
        warnings=[job_pb2.Warning(field=w.field, reason=w.reason, description=w.description) for w in found.warnings],
        feasible=found.feasible,
        infeasible_reason=found.infeasible_reason,
        pending_reason=found.pending_reason,
        checks=[
            preflight_pb2.Check(
                name=check.name,
                status=_CHECK_STATUSES[check.status.value],  # type: ignore[arg-type]
                reason=check.reason,
                message=check.message,
                node=check.node,
            )
            for check in found.checks
        ],
        estimate=_estimate_message(found.estimate) if found.judged else None,
    )


def _estimate_message(estimate: Estimate) -> preflight_pb2.Estimate:
    memory = estimate.memory
    return preflight_pb2.Estimate(
        parameters=estimate.parameters,
        trainable_parameters=estimate.trainable_parameters,
        gpu_memory_bytes=estimate.gpu_memory_bytes,
        memory=preflight_pb2.Estimate.Memory(**asdict(memory)) if memory is not None else None,
        sharded=estimate.sharded,
        steps=estimate.steps,
        tokens=estimate.tokens,
        seconds=estimate.seconds,
        disk_bytes=estimate.disk_bytes,
        unknown=estimate.unknown,
    )
