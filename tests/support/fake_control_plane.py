"""A control plane in memory that answers an agent over a real nats-server, with knobs for its moods.

It keeps what a real one would keep (who claimed with which nonce, how far reports are applied, who was granted), and
judges what it is told: a gap in the reports, a second grant or a foreign nonce is noted in `complaints`.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from nacl.public import PublicKey, SealedBox

from trainplane.wire import subjects
from trainplane.wire.settling import settled
from trainplane.wire.v1 import claim_pb2, commit_pb2, log_pb2, report_pb2, sync_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client

Key = tuple[str, int]


@dataclass
class Job:
    """One attempt that the fake wants run."""

    assignment: dict[str, Any]
    sealed: dict[str, str] = field(default_factory=dict)
    nonce: bytes = b""
    stop: str = ""
    settled: bool = False
    granted: str = ""
    reports: list[report_pb2.Report] = field(default_factory=list)
    logs: dict[int, bytearray] = field(default_factory=dict)
    """By rank."""
    stages: list[str] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)

    @property
    def log(self) -> bytearray:
        """Of rank 0."""
        return self.logs.get(0, bytearray())

    @property
    def key(self) -> Key:
        return self.assignment["uid"], self.assignment["attempt"]

    def kinds(self) -> list[str]:
        """What was reported, in order, by the names of the protocol."""
        return [str(report.WhichOneof("news")) for report in self.reports]

    def last(self, kind: str) -> Any:
        """The last report of a kind, or None."""
        found = [getattr(report, kind) for report in self.reports if report.WhichOneof("news") == kind]
        return found[-1] if found else None

    @property
    def stage(self) -> str:
        """The stage last heard of."""
        return self.stages[-1] if self.stages else ""


@dataclass
class Moods:
    """How it misbehaves; counts run down with each request that they spoil."""

    lose_replies: Counter[str] = field(default_factory=Counter)
    not_now: Counter[str] = field(default_factory=Counter)
    answer_twice: bool = False
    refuse_claim: str = ""
    refuse_commit: str = ""
    superseded: bool = False
    logs_enough: bool = False


@dataclass
class FakeControlPlane:
    """Answers one node's requests. `serve` first."""

    node: str
    client: Client
    moods: Moods = field(default_factory=Moods)
    jobs: dict[Key, Job] = field(default_factory=dict)
    incarnation: int = 0
    generation: int = 1
    next_sync_seconds: float = 3.0
    syncs: list[sync_pb2.SyncRequest] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    batches: dict[Key, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    async def serve(self) -> None:
        """Answer from now on."""
        answers: dict[str, Callable[[bytes], Any]] = {
            subjects.SYNC: self._sync,
            subjects.CLAIM: self._claim,
            subjects.REPORT: self._report,
            subjects.COMMIT: self._commit,
            subjects.LOG: self._log,
        }
        for kind, answer in answers.items():
            await self.client.subscribe(subjects.requests(kind), cb=self._answering(kind, answer))
        await settled(self.client)

    async def assign(self, spec: dict[str, Any], *, uid: str = "", attempt: int = 1, **more: Any) -> Job:
        """Want a job to be run, and wake the node."""
        # Never the same twice: agents of other tests on this host go by it when they kill.
        uid = f"{uid or 'JOB'}-{secrets.token_hex(5)}"
        document = {
            "uid": uid,
            "job_id": more.pop("job_id", f"job-{uid}"),
            "project": "default",
            "attempt": attempt,
            "spec": spec,
            "devices": more.pop("devices", []),
            **({"world_size": more.pop("world_size")} if "world_size" in more else {}),
            "deadline_seconds": more.pop("deadline_seconds", 600.0),
        }
        job = self.jobs[(uid, attempt)] = Job(document, **more)
        await self.wake()
        return job

    async def stop(self, job: Job, reason: str = "CANCELLED") -> None:
        """Want it stopped, and wake the node."""
        job.stop = reason
        await self.wake()

    async def wake(self) -> None:
        """A wake, as after every change of what is wanted."""
        self.generation += 1
        await self.client.publish(subjects.wake(self.node))

    def _answering(self, kind: str, answer: Callable[[bytes], Any]) -> Callable[[Any], Any]:
        async def on_request(message: Any) -> None:
            self.requests[kind] += 1
            if self.moods.not_now[kind] > 0:
                self.moods.not_now[kind] -= 1
                await message.respond(_NOT_NOW[kind].SerializeToString())
                return
            reply = answer(message.data)
            if self.moods.lose_replies[kind] > 0:
                self.moods.lose_replies[kind] -= 1
                return
            for _ in range(2 if self.moods.answer_twice else 1):
                await message.respond(reply.SerializeToString())

        return on_request

    def _sync(self, data: bytes) -> sync_pb2.SyncReply:
        request = sync_pb2.SyncRequest.FromString(data)
        if self.moods.superseded:
            return sync_pb2.SyncReply(outcome="SUPERSEDED")
        if request.incarnation == 0:
            self.incarnation += 1
        self.syncs.append(request)
        known = set()
        for status in request.attempts:
            known.add(_key(status.attempt))
            job = self.jobs.get(_key(status.attempt))
            if job is not None:
                stage = sync_pb2.AttemptStatus.Stage.Name(status.stage)
                job.stages += [] if job.stage == stage else [stage]
                job.pids |= {status.pid} - {0}
        return sync_pb2.SyncReply(
            outcome="APPLIED",
            incarnation=self.incarnation,
            generation=self.generation,
            claim=[
                _reference(key)
                for key, job in self.jobs.items()
                if key not in known and not job.stop and not job.settled
            ],
            stop=[
                sync_pb2.SyncReply.Stop(attempt=_reference(key), reason=job.stop)
                for key, job in self.jobs.items()
                if job.stop
            ],
            settled=[_reference(key) for key, job in self.jobs.items() if job.settled],
            next_sync=Duration(seconds=int(self.next_sync_seconds), nanos=int(self.next_sync_seconds % 1 * 1e9)),
        )

    def _claim(self, data: bytes) -> claim_pb2.ClaimReply:
        request = claim_pb2.ClaimRequest.FromString(data)
        job = self.jobs.get(_key(request.attempt))
        if job is None or self.moods.refuse_claim:
            return claim_pb2.ClaimReply(outcome="REFUSED", reason=self.moods.refuse_claim or "UNKNOWN")
        if job.nonce and job.nonce != request.nonce:
            self.complaints.append(f"{_key(request.attempt)} claimed with another nonce")
            return claim_pb2.ClaimReply(outcome="REFUSED", reason="CLAIMED")
        job.nonce = request.nonce
        box = SealedBox(PublicKey(request.public_key))
        return claim_pb2.ClaimReply(
            outcome="GRANTED",
            assignment_json=json.dumps(job.assignment).encode(),
            sealed_secrets=box.encrypt(json.dumps(job.sealed).encode()) if job.sealed else b"",
            applied=len(job.reports),
        )

    def _report(self, data: bytes) -> report_pb2.ReportReply:
        request = report_pb2.ReportRequest.FromString(data)
        reply = report_pb2.ReportReply(outcome="APPLIED")
        if self.moods.superseded:
            return report_pb2.ReportReply(outcome="SUPERSEDED")
        for part in request.attempts:
            key = _key(part.attempt)
            job = self.jobs.get(key)
            if job is None:
                reply.watermarks.add(attempt=part.attempt, stale=True)
                continue
            self.batches[key].append((part.first_sequence, len(part.reports)))
            applied = len(job.reports)
            if part.first_sequence > applied + 1:
                self.complaints.append(f"{key}: a gap between {applied} and {part.first_sequence}")
            job.reports += part.reports[applied + 1 - part.first_sequence :]
            reply.watermarks.add(attempt=part.attempt, applied=len(job.reports))
        return reply

    def _commit(self, data: bytes) -> commit_pb2.CommitReply:
        request = commit_pb2.CommitRequest.FromString(data)
        job = self.jobs[_key(request.attempt)]
        if self.moods.refuse_commit:
            return commit_pb2.CommitReply(outcome="REFUSED", reason=self.moods.refuse_commit)
        if job.granted and job.granted != request.manifest_digest:
            self.complaints.append(f"{_key(request.attempt)}: a second commit with another digest")
            return commit_pb2.CommitReply(outcome="REFUSED", reason="GRANTED_TO_ANOTHER")
        job.granted = request.manifest_digest
        return commit_pb2.CommitReply(outcome="GRANTED")

    def _log(self, data: bytes) -> log_pb2.LogReply:
        request = log_pb2.LogRequest.FromString(data)
        job = self.jobs.get(_key(request.attempt))
        if job is None or self.moods.logs_enough:
            return log_pb2.LogReply(outcome="ENOUGH")
        log = job.logs.setdefault(request.rank, bytearray())
        if request.offset_bytes <= len(log):
            log[request.offset_bytes : request.offset_bytes + len(request.data)] = request.data
        return log_pb2.LogReply(outcome="STORED", size_bytes=len(log))


_NOT_NOW = {
    subjects.SYNC: sync_pb2.SyncReply(outcome="NOT_NOW", next_sync=Duration(nanos=100_000_000)),
    subjects.CLAIM: claim_pb2.ClaimReply(outcome="NOT_NOW"),
    subjects.REPORT: report_pb2.ReportReply(outcome="NOT_NOW"),
    subjects.COMMIT: commit_pb2.CommitReply(outcome="NOT_NOW"),
    subjects.LOG: log_pb2.LogReply(outcome="NOT_NOW"),
}


def _key(reference: sync_pb2.AttemptRef) -> Key:
    return reference.job_uid, reference.number


def _reference(key: Key) -> sync_pb2.AttemptRef:
    return sync_pb2.AttemptRef(job_uid=key[0], number=key[1])
