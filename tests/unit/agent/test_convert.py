"""Report lines on their way to the wire: every kind, and every way in which a line can be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from agent import convert, ports
from agent.run import AttemptKey
from trainplane.wire.v1 import report_pb2, sync_pb2

TIME = "2026-01-02T03:04:05.000006Z"
STAMP = Timestamp(seconds=1767323045, nanos=6000)


def line(kind: str, **fields: Any) -> bytes:
    return json.dumps({"kind": kind, "time": TIME, **fields}).encode()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (line("started", pid=7), report_pb2.Report(time=STAMP, started=report_pb2.Started(pid=7))),
        (
            line("phase", phase="TRAINING"),
            report_pb2.Report(time=STAMP, phase_changed=report_pb2.PhaseChanged(phase="TRAINING")),
        ),
        (
            line("phase", phase="FETCHING_MODEL", message="1 of 13 GB"),
            report_pb2.Report(
                time=STAMP, phase_changed=report_pb2.PhaseChanged(phase="FETCHING_MODEL", message="1 of 13 GB")
            ),
        ),
        (
            line("fetched", base_model_commit="0123abcd"),
            report_pb2.Report(time=STAMP, fetched=report_pb2.Fetched(base_model_commit="0123abcd")),
        ),
        (
            line("progress", step=1, total_steps=9, loss=2.5, grad_norm=None, something_new=3),
            report_pb2.Report(time=STAMP, progressed=report_pb2.Progressed(step=1, total_steps=9, loss=2.5)),
        ),
        (
            line("warning", reason="A", message="b"),
            report_pb2.Report(time=STAMP, warned=report_pb2.Warned(reason="A", message="b")),
        ),
        (line("failed", reason="A"), report_pb2.Report(time=STAMP, failed=report_pb2.Failed(reason="A"))),
        (line("stopped", reason="A"), report_pb2.Report(time=STAMP, stopped=report_pb2.Stopped(reason="A"))),
        (
            line("checkpoint", step=40, size_bytes=2**40, manifest_digest="d", oldest_step=20),
            report_pb2.Report(
                time=STAMP,
                checkpointed=report_pb2.Checkpointed(step=40, size_bytes=2**40, manifest_digest="d", oldest_step=20),
            ),
        ),
        (
            line("checkpoint", step=40, size_bytes=1, manifest_digest="d"),
            report_pb2.Report(
                time=STAMP, checkpointed=report_pb2.Checkpointed(step=40, size_bytes=1, manifest_digest="d")
            ),
        ),
        (line("finished"), report_pb2.Report(time=STAMP, finished=report_pb2.Finished())),
        (
            line("metrics", series={"step": [1, 2], "loss": [2.5, 2]}),
            report_pb2.Report(
                time=STAMP,
                measured=report_pb2.Measured(
                    steps=[1, 2], series=[report_pb2.Measured.Series(name="loss", values=[2.5, 2.0])]
                ),
            ),
        ),
        (
            line(
                "published",
                output_uri="file:///o",
                manifest_digest="d",
                artifacts=[{"path": "a", "size_bytes": 2**40, "sha256": "s"}],
            ),
            report_pb2.Report(
                time=STAMP,
                published=report_pb2.Published(
                    output_uri="file:///o",
                    manifest_digest="d",
                    files=[report_pb2.Published.File(path="a", size_bytes=2**40, sha256="s")],
                ),
            ),
        ),
    ],
)
def test_every_kind_of_line_becomes_its_report(written: bytes, expected: report_pb2.Report) -> None:
    assert convert.report(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kind":"progress","step":',
        line("unheard-of"),
        b'{"kind":"finished"}',
        b'{"kind":"finished","time":"yesterday"}',
        b'{"kind":"finished","time":"2026-01-02T03:04:05"}',
        line("started", pid="seven"),
        line("started", pid=2**40),
        line("phase", phase=3),
        line("phase", phase="\ud800"),
        line("progress", step=1, loss=float("nan")),
        line("progress", step=1, loss=float("inf")),
        line("progress", step=1).replace(b'"step": 1', b'"loss": 1e999'),
        line("progress", step="1"),
        line("published", output_uri="x"),
        line("checkpoint", step=1, size_bytes=1),
        line("checkpoint", step="1", size_bytes=1, manifest_digest="d"),
        line("metrics"),
        line("metrics", series={"loss": [1]}),
        line("metrics", series={"step": [], "loss": []}),
        line("metrics", series={"step": [1, 2], "loss": [1]}),
        line("metrics", series={"step": [1], "loss": ["1"]}),
        line("metrics", series={"step": [1], "loss": [[]]}),
        line("metrics", series={"step": [1], "loss": [float("nan")]}),
        line("metrics", series={"step": [1], "loss": [1]}).replace(b'"loss": [1]', b'"loss": [1e999]'),
        line("metrics", series={"step": [1.5], "loss": [1]}),
        line("metrics", series=[1]),
    ],
)
def test_a_line_that_cannot_be_read_still_counts(written: bytes) -> None:
    assert convert.report(written) == report_pb2.Report(unreadable=report_pb2.Unreadable())


def test_a_value_that_is_missing_at_a_step_is_told_as_such() -> None:
    got = convert.report(line("metrics", series={"step": [1, 2], "grad_norm": [None, 0.5]})).measured
    assert str(list(got.series[0].values)) == "[nan, 0.5]"


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert convert.report(data).WhichOneof("news")


def test_a_sync_answer_carries_what_is_wanted() -> None:
    reference = convert.reference(AttemptKey("01J", 2))
    reply = sync_pb2.SyncReply(
        outcome="APPLIED",
        incarnation=4,
        generation=5,
        claim=[reference],
        stop=[sync_pb2.SyncReply.Stop(attempt=reference, reason="LOST")],
        settled=[reference],
    )
    answer = convert.sync_answer(reply)
    assert answer.wanted is not None
    assert answer.wanted.claim == (AttemptKey("01J", 2),)
    assert answer.wanted.stop == {AttemptKey("01J", 2): "LOST"}
    assert answer.wanted.settled == {AttemptKey("01J", 2)}
    assert (answer.incarnation, answer.generation, answer.next_sync_seconds) == (4, 5, 3.0)


def test_from_a_control_plane_that_is_not_ready_nothing_is_concluded() -> None:
    assert convert.sync_answer(sync_pb2.SyncReply(outcome="NOT_NOW")).wanted is None


def test_superseded_is_raised() -> None:
    with pytest.raises(ports.SupersededError):
        convert.sync_answer(sync_pb2.SyncReply(outcome="SUPERSEDED"))
    with pytest.raises(ports.SupersededError):
        convert.watermarks(report_pb2.ReportReply(outcome="SUPERSEDED"))
