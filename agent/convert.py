"""Protobuf on one side, the agent's own words on the other: pure functions, nowhere else.

`report` runs once per report line and is the agent's hottest code: about 10 us a line.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from agent import ports
from agent.plan import Wanted
from agent.run import AttemptKey
from trainplane.wire.v1 import claim_pb2, commit_pb2, probe_pb2, report_pb2, sync_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.devices import Inventory

_ANSWERS = {1: ports.Answer.GRANTED, 2: ports.Answer.REFUSED}  # the same numbers in both replies
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PROGRESS = frozenset(field.name for field in report_pb2.Progressed.DESCRIPTOR.fields)
_DEFAULT_NEXT_SYNC_SECONDS = 3.0


def reference(key: AttemptKey) -> sync_pb2.AttemptRef:
    """An attempt's name, for the wire."""
    return sync_pb2.AttemptRef(job_uid=key.uid, number=key.number)


def key(reference: sync_pb2.AttemptRef) -> AttemptKey:
    """An attempt's name, from the wire."""
    return AttemptKey(reference.job_uid, reference.number)


def inventory(inventory: Inventory, *, not_ready_reason: str, rendezvous_address: str = "") -> sync_pb2.Inventory:
    """What the node has, for the wire."""
    return sync_pb2.Inventory(
        gpus=[
            sync_pb2.Inventory.Gpu(index=gpu.index, type=gpu.kind, memory_bytes=gpu.memory_bytes)
            for gpu in inventory.gpus
        ],
        cpus=inventory.cpus,
        memory_bytes=inventory.memory_bytes,
        labels=dict(inventory.labels),
        runner="local",
        simulated=inventory.simulated,
        not_ready_reason=not_ready_reason,
        rendezvous_address=rendezvous_address,
    )


def attempts(states: Iterable[ports.AttemptState]) -> list[sync_pb2.AttemptStatus]:
    """Every attempt as it is, for the wire."""
    return [
        sync_pb2.AttemptStatus(
            attempt=reference(state.key),
            stage=state.stage.value,
            pid=state.pid,
            reports=state.reports,
        )
        for state in states
    ]


def sync_answer(reply: sync_pb2.SyncReply) -> ports.SyncAnswer:
    """What is wanted, from the wire.

    Raises:
        ports.SupersededError: the reply says so.
    """
    if reply.outcome == sync_pb2.SyncReply.Outcome.SUPERSEDED:
        raise ports.SupersededError
    seconds = reply.next_sync.seconds + reply.next_sync.nanos / 1e9
    wanted = Wanted(
        claim=tuple(key(entry) for entry in reply.claim),
        stop={key(entry.attempt): entry.reason for entry in reply.stop},
        settled=frozenset(key(entry) for entry in reply.settled),
    )
    return ports.SyncAnswer(
        wanted=wanted if reply.outcome == sync_pb2.SyncReply.Outcome.APPLIED else None,
        incarnation=reply.incarnation,
        generation=reply.generation,
        next_sync_seconds=seconds if seconds > 0 else _DEFAULT_NEXT_SYNC_SECONDS,
    )


def claim_answer(reply: claim_pb2.ClaimReply) -> ports.ClaimAnswer:
    """The claim's answer, from the wire; an outcome that is not known here means: not now."""
    return ports.ClaimAnswer(
        answer=_ANSWERS.get(reply.outcome, ports.Answer.NOT_NOW),
        reason=reply.reason,
        assignment=reply.assignment_json,
        sealed_secrets=reply.sealed_secrets,
        applied=reply.applied,
    )


def commit_answer(reply: commit_pb2.CommitReply) -> ports.CommitAnswer:
    """The commit's answer, from the wire."""
    return ports.CommitAnswer(_ANSWERS.get(reply.outcome, ports.Answer.NOT_NOW), reply.reason)


def watermarks(reply: report_pb2.ReportReply) -> dict[AttemptKey, ports.Watermark] | None:
    """How far reports are recorded, from the wire; None: not now.

    Raises:
        ports.SupersededError: the reply says so.
    """
    if reply.outcome == report_pb2.ReportReply.Outcome.SUPERSEDED:
        raise ports.SupersededError
    if reply.outcome != report_pb2.ReportReply.Outcome.APPLIED:
        return None
    return {key(mark.attempt): ports.Watermark(mark.applied, mark.stale) for mark in reply.watermarks}


def report(line: bytes) -> report_pb2.Report:
    """One line of a report file, for the wire; what cannot be read becomes `unreadable`, keeping its number."""
    try:
        fields = _DECODER.decode(line.decode())
        return _NEWS[fields["kind"]](_timestamp(fields["time"]), fields)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return report_pb2.Report(unreadable=report_pb2.Unreadable())


def _not_finite(literal: str) -> float:
    raise ValueError(f"{literal} is no number that can be shown")


_DECODER = json.JSONDecoder(parse_constant=_not_finite)


def _timestamp(text: str) -> Timestamp:
    since = datetime.fromisoformat(text) - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def _progressed(time: Timestamp, fields: dict[str, Any]) -> report_pb2.Report:
    known = {name: value for name, value in fields.items() if name in _PROGRESS and value is not None}
    if not all(map(math.isfinite, known.values())):
        raise ValueError("a number is not finite")
    return report_pb2.Report(time=time, progressed=report_pb2.Progressed(**known))


def _measured(time: Timestamp, fields: dict[str, Any]) -> report_pb2.Report:
    series = dict(fields["series"])
    steps = series.pop("step")
    if not steps or any(len(values) != len(steps) for values in series.values()):
        raise ValueError("series of unequal length")
    shown = {name: [math.nan if value is None else value for value in values] for name, values in series.items()}
    if any(math.isinf(value) for values in shown.values() for value in values):
        raise ValueError("a number is not finite")
    measured = report_pb2.Measured(
        steps=steps,
        series=[report_pb2.Measured.Series(name=name, values=values) for name, values in shown.items()],
    )
    return report_pb2.Report(time=time, measured=measured)


def _published(time: Timestamp, fields: dict[str, Any]) -> report_pb2.Report:
    files = [
        report_pb2.Published.File(path=file["path"], size_bytes=file["size_bytes"], sha256=file["sha256"])
        for file in fields["artifacts"]
    ]
    published = report_pb2.Published(
        output_uri=fields["output_uri"], manifest_digest=fields["manifest_digest"], files=files
    )
    return report_pb2.Report(time=time, published=published)


def _checkpointed(time: Timestamp, fields: dict[str, Any]) -> report_pb2.Report:
    checkpointed = report_pb2.Checkpointed(
        step=fields["step"],
        size_bytes=fields["size_bytes"],
        manifest_digest=fields["manifest_digest"],
        oldest_step=fields.get("oldest_step", 0),
    )
    return report_pb2.Report(time=time, checkpointed=checkpointed)


_NEWS: dict[str, Callable[[Timestamp, dict[str, Any]], report_pb2.Report]] = {
    "started": lambda time, fields: report_pb2.Report(time=time, started=report_pb2.Started(pid=fields["pid"])),
    "phase": lambda time, fields: report_pb2.Report(
        time=time, phase_changed=report_pb2.PhaseChanged(phase=fields["phase"], message=fields.get("message", ""))
    ),
    "fetched": lambda time, fields: report_pb2.Report(
        time=time, fetched=report_pb2.Fetched(base_model_commit=fields["base_model_commit"])
    ),
    "progress": _progressed,
    "warning": lambda time, fields: report_pb2.Report(
        time=time, warned=report_pb2.Warned(reason=fields["reason"], message=fields.get("message", ""))
    ),
    "failed": lambda time, fields: report_pb2.Report(
        time=time, failed=report_pb2.Failed(reason=fields["reason"], message=fields.get("message", ""))
    ),
    "stopped": lambda time, fields: report_pb2.Report(time=time, stopped=report_pb2.Stopped(reason=fields["reason"])),
    "finished": lambda time, _: report_pb2.Report(time=time, finished=report_pb2.Finished()),
    "published": _published,
    "metrics": _measured,
    "checkpoint": _checkpointed,
}


def probe_reply(found: ports.ProbeAnswer) -> probe_pb2.ProbeReply:
    """What a look found."""
    return probe_pb2.ProbeReply(
        outcome=found.outcome.value,
        reason=found.reason,
        message=found.message,
        findings=[
            probe_pb2.ProbeReply.Finding(
                check=each.check,
                outcome=each.outcome.value,
                reason=each.reason,
                message=each.message,
            )
            for each in found.findings
        ],
        facts=found.facts,
    )
