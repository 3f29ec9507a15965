"""Agents' requests and our answers, between protobuf and the engine's words. Reports have their own file, `reports.py`.

Decoders take the node from the caller, who has it from the subject. They are total: every payload becomes a request, or
raises Malformed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from controlplane.bus import bounds
from controlplane.bus.bounds import Malformed
from controlplane.domain.node import AttemptRef, AttemptStatus, Gpu, Inventory, Stage, Sync
from controlplane.engine import requests
from trainplane.wire.v1 import claim_pb2, commit_pb2, log_pb2, sync_pb2

if TYPE_CHECKING:
    from controlplane.domain.node import Wanted

M = TypeVar("M", bound=Message)

_LAST_PORT = 65_535
_STAGES = {number: Stage(name) for name, number in sync_pb2.AttemptStatus.Stage.items() if number}


def parse(message: type[M], payload: bytes) -> M:
    """Reads a protobuf message.

    Raises:
        Malformed: the bytes are none, or too many.
    """
    if len(payload) > bounds.MAX_REQUEST_BYTES:
        raise Malformed(f"{len(payload)} bytes")
    try:
        return message.FromString(payload)
    except DecodeError as error:
        raise Malformed(f"no {message.DESCRIPTOR.name}") from error


def reference(of: sync_pb2.AttemptRef) -> AttemptRef:
    """An attempt's name."""
    return AttemptRef(bounds.word(of.job_uid), of.number)


def named(of: sync_pb2.AttemptRef) -> AttemptRef:
    """An attempt's name where there must be one.

    Raises:
        Malformed: there is none.
    """
    if not of.job_uid or of.number < 1:
        raise Malformed("no attempt is named")
    return reference(of)


def _reference_out(of: AttemptRef) -> sync_pb2.AttemptRef:
    return sync_pb2.AttemptRef(job_uid=of.job_uid, number=of.number)


def sync(node: str, payload: bytes) -> Sync:
    """A node's whole state. A stage of a later version counts as RUNNING: what may live is taken to live."""
    said = parse(sync_pb2.SyncRequest, payload)
    return Sync(
        node=node,
        incarnation=said.incarnation,
        counter=said.counter,
        host_boot_id=bounds.word(said.host_boot_id),
        agent_version=bounds.word(said.agent_version),
        inventory=_inventory(said.inventory),
        attempts=tuple(
            AttemptStatus(
                attempt=named(status.attempt),
                stage=_STAGES.get(status.stage, Stage.RUNNING),
                pid=status.pid,
                reports=bounds.count(status.reports),
            )
            for status in said.attempts
        ),
        public_key=said.public_key if len(said.public_key) == 32 else b"",
    )


def _inventory(of: sync_pb2.Inventory) -> Inventory:
    gpus = tuple(Gpu(gpu.index, bounds.word(gpu.type), bounds.count(gpu.memory_bytes)) for gpu in of.gpus)
    indices = {gpu.index for gpu in gpus}
    if len(indices) != len(gpus) or any(index < 0 for index in indices):
        raise Malformed("GPU indices repeat or are negative")
    return Inventory(
        gpus=gpus,
        cpus=bounds.count(of.cpus),
        memory_bytes=bounds.count(of.memory_bytes),
        labels={bounds.word(key): bounds.word(value) for key, value in of.labels.items()},
        runner=bounds.word(of.runner) or "local",
        simulated=of.simulated,
        not_ready_reason=bounds.message(of.not_ready_reason),
        rendezvous_address=bounds.word(of.rendezvous_address),
    )


def wanted(answer: Wanted) -> bytes:
    """What is wanted of a node."""
    next_sync = Duration()
    next_sync.FromMicroseconds(round(answer.next_sync_seconds * 1e6))
    return sync_pb2.SyncReply(
        outcome=answer.outcome,
        incarnation=answer.incarnation,
        generation=answer.generation,
        claim=[_reference_out(each) for each in answer.claim],
        stop=[
            sync_pb2.SyncReply.Stop(attempt=_reference_out(each.attempt), reason=each.reason) for each in answer.stop
        ],
        settled=[_reference_out(each) for each in answer.settled],
        next_sync=next_sync,
    ).SerializeToString()


def claim(node: str, payload: bytes) -> requests.ClaimAsked:
    """A claim."""
    asked = parse(claim_pb2.ClaimRequest, payload)
    if not 8 <= len(asked.nonce) <= 64 or len(asked.public_key) != 32:
        raise Malformed("a claim needs a nonce of 16 bytes and a public key of 32")
    port = asked.rendezvous_port if 0 < asked.rendezvous_port <= _LAST_PORT else 0
    return requests.ClaimAsked(node, asked.incarnation, named(asked.attempt), asked.nonce, asked.public_key, port)


def claim_answer(answer: requests.ClaimAnswer) -> bytes:
    """The answer to a claim."""
    return claim_pb2.ClaimReply(
        outcome=answer.outcome.value,
        reason=answer.reason,
        assignment_json=answer.assignment_json,
        sealed_secrets=answer.sealed_secrets,
        applied=answer.applied,
    ).SerializeToString()


def commit(node: str, payload: bytes) -> requests.CommitAsked:
    """The wish to publish."""
    asked = parse(commit_pb2.CommitRequest, payload)
    return requests.CommitAsked(node, asked.incarnation, named(asked.attempt), bounds.word(asked.manifest_digest))


def commit_answer(answer: requests.CommitAnswer) -> bytes:
    """The answer to the wish to publish."""
    return commit_pb2.CommitReply(outcome=answer.outcome.value, reason=answer.reason).SerializeToString()


def log(node: str, payload: bytes) -> requests.LogChunk:
    """A piece of a log."""
    chunk = parse(log_pb2.LogRequest, payload)
    if len(chunk.data) > bounds.MAX_LOG_BYTES or not 0 <= chunk.offset_bytes <= bounds.MAX_COUNT or chunk.rank < 0:
        raise Malformed("a log chunk has up to 256 KiB, and neither offset nor rank is negative")
    return requests.LogChunk(node, chunk.incarnation, named(chunk.attempt), chunk.rank, chunk.offset_bytes, chunk.data)


def log_answer(answer: requests.LogAnswer) -> bytes:
    """The answer to a piece of a log."""
    return log_pb2.LogReply(outcome=answer.outcome.value, size_bytes=answer.size_bytes).SerializeToString()
