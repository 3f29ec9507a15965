"""Sync, claim, commit and log cross between protobuf and the engine's words without loss, whatever they hold."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.bus import bounds, convert
from controlplane.bus.bounds import Malformed
from controlplane.domain.node import AttemptRef, AttemptStatus, Gpu, Inventory, Stage, Stop, Sync, Wanted
from controlplane.engine.requests import (
    ClaimAnswer,
    ClaimAsked,
    CommitAnswer,
    CommitAsked,
    Grant,
    Kept,
    LogAnswer,
    LogChunk,
)
from trainplane.wire.v1 import claim_pb2, commit_pb2, log_pb2, sync_pb2

INT32, INT64 = 2**31 - 1, 2**63 - 1
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=bounds.MAX_WORD_CHARACTERS)
names = words.filter(bool)
counts = st.integers(0, bounds.MAX_COUNT)
int64s = st.integers(-INT64 - 1, INT64)
refs = st.builds(AttemptRef, names, st.integers(1, INT32))
inventories = st.builds(
    Inventory,
    gpus=st.lists(
        st.builds(Gpu, st.integers(0, INT32), words, counts), max_size=4, unique_by=lambda gpu: gpu.index
    ).map(tuple),
    cpus=st.integers(0, INT32),
    memory_bytes=counts,
    labels=st.dictionaries(words, words, max_size=3),
    runner=names,
    simulated=st.booleans(),
    not_ready_reason=words,
)
syncs = st.builds(
    Sync,
    node=st.just("gpu-01"),
    incarnation=int64s,
    counter=int64s,
    host_boot_id=words,
    agent_version=words,
    inventory=inventories,
    attempts=st.lists(
        st.builds(AttemptStatus, refs, st.sampled_from(Stage), st.integers(-INT32, INT32), counts), max_size=4
    ).map(tuple),
)


def wire_ref(ref: AttemptRef) -> sync_pb2.AttemptRef:
    return sync_pb2.AttemptRef(job_uid=ref.job_uid, number=ref.number)


def ref(of: sync_pb2.AttemptRef) -> AttemptRef:
    return AttemptRef(of.job_uid, of.number)


def wire_sync(said: Sync) -> bytes:
    has = said.inventory
    return sync_pb2.SyncRequest(
        incarnation=said.incarnation,
        counter=said.counter,
        host_boot_id=said.host_boot_id,
        agent_version=said.agent_version,
        inventory=sync_pb2.Inventory(
            gpus=[sync_pb2.Inventory.Gpu(index=g.index, type=g.type, memory_bytes=g.memory_bytes) for g in has.gpus],
            cpus=has.cpus,
            memory_bytes=has.memory_bytes,
            labels=dict(has.labels),
            runner=has.runner,
            simulated=has.simulated,
            not_ready_reason=has.not_ready_reason,
        ),
        attempts=[
            sync_pb2.AttemptStatus(attempt=wire_ref(a.attempt), stage=a.stage.value, pid=a.pid, reports=a.reports)
            for a in said.attempts
        ],
    ).SerializeToString()


@given(syncs)
def test_a_sync_arrives_as_it_was_said(said: Sync) -> None:
    assert convert.sync("gpu-01", wire_sync(said)) == said


wanteds = st.builds(
    Wanted,
    outcome=st.sampled_from(["APPLIED", "SUPERSEDED", "NOT_NOW"]),
    incarnation=int64s,
    generation=int64s,
    claim=st.lists(refs, max_size=3).map(tuple),
    stop=st.lists(st.builds(Stop, refs, words), max_size=3).map(tuple),
    settled=st.lists(refs, max_size=3).map(tuple),
    next_sync_seconds=st.integers(0, 10**9).map(lambda us: us / 1e6),
)


@given(wanteds)
def test_what_is_wanted_arrives_as_it_was_answered(answer: Wanted) -> None:
    got = sync_pb2.SyncReply.FromString(convert.wanted(answer))
    assert answer == Wanted(
        outcome=sync_pb2.SyncReply.Outcome.Name(got.outcome),
        incarnation=got.incarnation,
        generation=got.generation,
        claim=tuple(map(ref, got.claim)),
        stop=tuple(Stop(ref(each.attempt), each.reason) for each in got.stop),
        settled=tuple(map(ref, got.settled)),
        next_sync_seconds=got.next_sync.ToMicroseconds() / 1e6,
    )


@given(
    st.builds(
        ClaimAsked, st.just("n"), int64s, refs, st.binary(min_size=8, max_size=64), st.binary(min_size=32, max_size=32)
    )
)
def test_a_claim_arrives_as_it_was_asked(asked: ClaimAsked) -> None:
    wire = claim_pb2.ClaimRequest(
        incarnation=asked.incarnation, attempt=wire_ref(asked.attempt), nonce=asked.nonce, public_key=asked.public_key
    )
    assert convert.claim("n", wire.SerializeToString()) == asked


@given(st.builds(ClaimAnswer, st.sampled_from(Grant), words, st.binary(), st.binary(), int64s))
def test_a_claims_answer_arrives_as_it_was_given(answer: ClaimAnswer) -> None:
    got = claim_pb2.ClaimReply.FromString(convert.claim_answer(answer))
    assert answer == ClaimAnswer(
        Grant(claim_pb2.ClaimReply.Outcome.Name(got.outcome)),
        got.reason,
        got.assignment_json,
        got.sealed_secrets,
        got.applied,
    )


@given(st.builds(CommitAsked, st.just("n"), int64s, refs, words))
def test_the_wish_to_publish_arrives_as_it_was_asked(asked: CommitAsked) -> None:
    wire = commit_pb2.CommitRequest(
        incarnation=asked.incarnation, attempt=wire_ref(asked.attempt), manifest_digest=asked.manifest_digest
    )
    assert convert.commit("n", wire.SerializeToString()) == asked


@given(st.builds(CommitAnswer, st.sampled_from(Grant), words))
def test_the_grant_arrives_as_it_was_given(answer: CommitAnswer) -> None:
    got = commit_pb2.CommitReply.FromString(convert.commit_answer(answer))
    assert answer == CommitAnswer(Grant(commit_pb2.CommitReply.Outcome.Name(got.outcome)), got.reason)


@given(st.builds(LogChunk, st.just("n"), int64s, refs, st.integers(0, INT32), counts, st.binary()))
def test_a_piece_of_a_log_arrives_as_it_was_sent(chunk: LogChunk) -> None:
    wire = log_pb2.LogRequest(
        incarnation=chunk.incarnation,
        attempt=wire_ref(chunk.attempt),
        rank=chunk.rank,
        offset_bytes=chunk.offset_bytes,
        data=chunk.data,
    )
    assert convert.log("n", wire.SerializeToString()) == chunk


@given(st.builds(LogAnswer, st.sampled_from(Kept), counts))
def test_a_logs_answer_arrives_as_it_was_given(answer: LogAnswer) -> None:
    got = log_pb2.LogReply.FromString(convert.log_answer(answer))
    assert answer == LogAnswer(Kept(log_pb2.LogReply.Outcome.Name(got.outcome)), got.size_bytes)


@given(st.sampled_from([convert.sync, convert.claim, convert.commit, convert.log]), st.binary(max_size=300))
@example(convert.sync, b"")
def test_any_bytes_are_a_request_or_malformed(decode, payload: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert decode("gpu-01", payload).node == "gpu-01"


def test_a_stage_of_a_later_version_counts_as_running() -> None:
    for stage in (0, 99, -1):
        status = sync_pb2.AttemptStatus(attempt=sync_pb2.AttemptRef(job_uid="01J", number=1), stage=stage)
        said = convert.sync("n", sync_pb2.SyncRequest(attempts=[status]).SerializeToString())
        assert said.attempts[0].stage is Stage.RUNNING


def test_text_is_cut_and_without_nul_and_numbers_are_not_negative() -> None:
    has = sync_pb2.Inventory(
        cpus=-3,
        memory_bytes=-1,
        labels={"k\0": "v" * 1_000},
        not_ready_reason="\0" + "é" * 100_000,
        gpus=[sync_pb2.Inventory.Gpu(memory_bytes=2**62)],
    )
    got = convert.sync("n", sync_pb2.SyncRequest(inventory=has).SerializeToString()).inventory
    assert (got.cpus, got.memory_bytes, got.runner) == (0, 0, "local")
    assert got.labels == {"k\ufffd": "v" * bounds.MAX_WORD_CHARACTERS}
    assert got.not_ready_reason == "\ufffd" + "é" * (bounds.MAX_MESSAGE_CHARACTERS - 2) + "…"
    assert got.gpus[0].memory_bytes == bounds.MAX_COUNT


REF = sync_pb2.AttemptRef(job_uid="01J", number=1)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (convert.claim, claim_pb2.ClaimRequest(nonce=b"n" * 16, public_key=b"k" * 32)),
        (convert.claim, claim_pb2.ClaimRequest(attempt=REF, nonce=b"n" * 16, public_key=b"k" * 31)),
        (convert.claim, claim_pb2.ClaimRequest(attempt=REF, nonce=b"n" * 7, public_key=b"k" * 32)),
        (convert.claim, claim_pb2.ClaimRequest(attempt=REF, nonce=b"n" * 65, public_key=b"k" * 32)),
        (convert.commit, commit_pb2.CommitRequest(manifest_digest="ab")),
        (convert.commit, commit_pb2.CommitRequest(attempt=sync_pb2.AttemptRef(job_uid="01J", number=-1))),
        (convert.log, log_pb2.LogRequest(data=b"x")),
        (convert.log, log_pb2.LogRequest(attempt=REF, rank=-1)),
        (convert.log, log_pb2.LogRequest(attempt=REF, offset_bytes=-1)),
        (convert.log, log_pb2.LogRequest(attempt=REF, offset_bytes=2**63 - 1)),
        (convert.log, log_pb2.LogRequest(attempt=REF, data=b"x" * (bounds.MAX_LOG_BYTES + 1))),
        (convert.sync, sync_pb2.SyncRequest(inventory=sync_pb2.Inventory(gpus=[sync_pb2.Inventory.Gpu(index=-1)]))),
        (convert.sync, sync_pb2.SyncRequest(agent_version="x" * bounds.MAX_REQUEST_BYTES)),
    ],
)
def test_what_no_agent_of_ours_sends_is_malformed(decode, message) -> None:
    with pytest.raises(Malformed):
        decode("gpu-01", message.SerializeToString())
