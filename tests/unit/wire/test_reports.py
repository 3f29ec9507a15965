"""Reports become news: total, bounded, quick."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import convert as agent_convert
from controlplane.bus import bounds, reports
from controlplane.bus.bounds import Malformed
from controlplane.domain import news
from controlplane.domain.event import Event, EventType, render, timestamp
from controlplane.domain.job import Progress, State
from controlplane.domain.metrics import Curves, chunk
from controlplane.domain.node import AttemptRef
from controlplane.engine.requests import Intake, Output, OutputFile, Report, ReportAnswer, Watermark
from trainplane.wire.v1 import report_pb2, sync_pb2

REF = sync_pb2.AttemptRef(job_uid="01J", number=3)
TIME_US = 1_800_000_000_123_456


def sent(*lines: report_pb2.Report, first: int = 1) -> bytes:
    for line in lines:
        if not line.HasField("time"):
            line.time.FromMicroseconds(TIME_US)
    attempt = report_pb2.AttemptReports(attempt=REF, first_sequence=first, reports=lines)
    return report_pb2.ReportRequest(incarnation=7, attempts=[attempt]).SerializeToString()


def read(*lines: report_pb2.Report) -> list[Report]:
    return reports.batch("gpu-01", sent(*lines)).attempts[0].reports


def progressed(**fields: float) -> report_pb2.Report:
    return report_pb2.Report(progressed=report_pb2.Progressed(**{"step": 1, "total_steps": 2, **fields}))


def test_each_kind_becomes_its_news_with_the_attempts_number_and_the_writers_time() -> None:
    published = report_pb2.Published(
        output_uri="file:///out",
        manifest_digest="ab" * 32,
        files=[report_pb2.Published.File(path="a/b", size_bytes=5, sha256="cd" * 32)],
    )
    lines = [
        report_pb2.Report(phase_changed=report_pb2.PhaseChanged(phase="FETCHING_MODEL", message="1 of 13 GB")),
        report_pb2.Report(fetched=report_pb2.Fetched(base_model_commit="0123abcd")),
        report_pb2.Report(started=report_pb2.Started(pid=5)),
        report_pb2.Report(phase_changed=report_pb2.PhaseChanged(phase="TRAINING")),
        progressed(
            epoch=0.5,
            loss=1.5,
            learning_rate=1e-4,
            grad_norm=2.0,
            tokens_per_second=9.0,
            gpu_memory_bytes=4.0,
            remaining_seconds=2.5,
        ),
        report_pb2.Report(warned=report_pb2.Warned(reason="R", message="m")),
        checkpointed(40, size_bytes=-1, manifest_digest="ab" * 500, oldest_step=20),
        checkpointed(40, oldest_step=-7),
        checkpointed(0),
        checkpointed(40, oldest_step=41),
        report_pb2.Report(failed=report_pb2.Failed(reason="R", message="m")),
        report_pb2.Report(stopped=report_pb2.Stopped(reason="CANCELLED")),
        report_pb2.Report(finished=report_pb2.Finished()),
        report_pb2.Report(published=published),
        report_pb2.Report(unreadable=report_pb2.Unreadable()),
        report_pb2.Report(),
    ]
    progress = Progress(1, 2, 0.5, 1.5, 1e-4, 2.0, 9.0, 4.0, TIME_US + 2_500_000)
    output = Output("file:///out", "ab" * 32, (OutputFile("a/b", 5, "cd" * 32),))
    assert read(*lines) == [
        Report(TIME_US, news.PhaseChanged(3, "FETCHING_MODEL", "1 of 13 GB")),
        Report(TIME_US, news.Fetched(3, "0123abcd")),
        Report(TIME_US, news.Started(3)),
        Report(TIME_US, news.PhaseChanged(3, "TRAINING")),
        Report(TIME_US, news.Progressed(3, progress)),
        Report(TIME_US, news.Warned(3, "R", "m")),
        Report(TIME_US, news.Checkpointed(3, 40, 0, "ab" * 64, 20)),
        Report(TIME_US, news.Checkpointed(3, 40, 0, "", 0)),
        Report(TIME_US, None),
        Report(TIME_US, None),
        Report(TIME_US, news.Failed(3, "R", "m")),
        Report(TIME_US, news.Stopped(3, "CANCELLED")),
        Report(TIME_US, news.Finished(3)),
        Report(TIME_US, news.Published(3), output),
        Report(TIME_US, None),
        Report(TIME_US, None),
    ]


def test_every_kind_on_the_wire_is_known_here() -> None:
    kinds = {field.name for field in report_pb2.Report.DESCRIPTOR.oneofs_by_name["news"].fields}
    assert kinds == {*reports._NEWS, "progressed", "published", "measured", "unreadable"}


def checkpointed(step: int, **fields) -> report_pb2.Report:
    return report_pb2.Report(checkpointed=report_pb2.Checkpointed(step=step, **fields))


def measured(steps: list[int], **series: list[float]) -> report_pb2.Report:
    rows = [report_pb2.Measured.Series(name=name, values=values) for name, values in series.items()]
    return report_pb2.Report(measured=report_pb2.Measured(steps=steps, series=rows))


def test_points_arrive_as_they_were_sent_and_are_no_news() -> None:
    (report,) = read(measured([3, 4, 9], loss=[1.5, math.nan, 1.25], grad_norm=[0.1, 0.2, 0.3]))
    assert (report.news, report.unreadable) == (None, False)
    assert report.measured is not None
    assert report.measured.steps == [3, 4, 9]
    assert report.measured.series["grad_norm"] == [0.1, 0.2, 0.3]
    assert str(report.measured.series["loss"]) == "[1.5, nan, 1.25]"


@pytest.mark.parametrize(
    "line",
    [
        measured([], loss=[]),
        measured([1]),
        measured([1, 2], loss=[1.0]),
        measured([2, 1], loss=[1.0, 1.0]),
        measured([1, 1], loss=[1.0, 1.0]),
        measured([-1], loss=[1.0]),
        measured([1], loss=[math.inf]),
        measured([1], **{"loss; DROP TABLE": [1.0]}),
        measured([1], step=[1.0]),
        measured([1], **{"l" * 64: [1.0]}),
        measured([1], **{f"s{number}": [1.0] for number in range(17)}),
        measured(list(range(501)), loss=[1.0] * 501),
        report_pb2.Report(
            measured=report_pb2.Measured(steps=[1], series=[report_pb2.Measured.Series(name="a", values=[1])] * 2)
        ),
    ],
)
def test_points_that_are_none_count_and_change_nothing(line: report_pb2.Report) -> None:
    (report,) = read(line)
    assert report.unreadable


def test_a_full_chunk_is_taken() -> None:
    (report,) = read(measured(list(range(500)), **{f"s{number}": [1.0] * 500 for number in range(16)}))
    assert report.measured is not None
    assert len(report.measured.series) == 16


def test_the_batch_names_its_attempts_and_where_their_reports_begin() -> None:
    got = reports.batch("gpu-01", sent(progressed(), first=41))
    assert (got.node, got.incarnation) == ("gpu-01", 7)
    assert [(each.attempt, each.first_sequence) for each in got.attempts] == [(AttemptRef("01J", 3), 41)]


@pytest.mark.parametrize(
    "field", ["epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "gpu_memory_bytes"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_makes_the_report_unreadable(field: str, value: float) -> None:
    got = reports.batch("n", sent(progressed(**{field: value}), progressed()))
    assert [report.news is None for report in got.attempts[0].reports] == [True, False]
    assert reports.unusable(got) == 1


def test_opposite_infinities_do_not_cancel_out() -> None:
    assert read(progressed(loss=math.inf, epoch=-math.inf))[0].news is None


@pytest.mark.parametrize("remaining", [-1.0, math.nan, math.inf, -math.inf, 1e300])
def test_an_unknown_or_absurd_remaining_time_is_no_end_time(remaining: float) -> None:
    (report,) = read(progressed(remaining_seconds=remaining))
    assert isinstance(report.news, news.Progressed)
    assert report.news.progress.estimated_end_time_us == 0


@given(
    seconds=st.integers(-(2**63), 2**63 - 1),
    nanos=st.integers(-(2**31), 2**31 - 1),
    step=st.integers(-(2**31), 2**31 - 1),
    floats=st.lists(st.floats(), min_size=7, max_size=7),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_whatever_a_report_says_its_event_can_be_rendered(seconds, nanos, step, floats, text) -> None:
    names = (
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "gpu_memory_bytes",
        "remaining_seconds",
    )
    lines = [
        report_pb2.Report(
            progressed=report_pb2.Progressed(step=step, total_steps=step, **dict(zip(names, floats, strict=True)))
        ),
        report_pb2.Report(failed=report_pb2.Failed(reason=text, message=text)),
    ]
    for line in lines:
        line.time.seconds, line.time.nanos = seconds, nanos
    for report in read(*lines):
        assert timestamp(report.time_us)
        said = report.news
        progress = said.progress if isinstance(said, news.Progressed) else None
        reason, message = (said.reason, said.message) if isinstance(said, news.Failed) else ("", "")
        event = Event(
            "01J", "p", "j", 1, EventType.PROGRESS, 1, report.time_us, State.RUNNING, "", reason, message, progress
        )
        assert "\0" not in reason + message
        assert len(render(event).encode()) < 100_000


def test_a_huge_message_is_cut_so_that_its_event_can_be_published() -> None:
    (report,) = read(report_pb2.Report(failed=report_pb2.Failed(reason="R" * 9_999, message="\x01" * 250_000)))
    assert isinstance(report.news, news.Failed)
    assert len(report.news.reason) == bounds.MAX_WORD_CHARACTERS
    assert len(report.news.message) == bounds.MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize("first", [0, -1, 2**63 - 1])
def test_sequences_count_from_one(first: int) -> None:
    with pytest.raises(Malformed):
        reports.batch("n", sent(progressed(), first=first))


def test_reports_of_no_attempt_are_malformed() -> None:
    lonely = report_pb2.AttemptReports(first_sequence=1, reports=[progressed()])
    with pytest.raises(Malformed):
        reports.batch("n", report_pb2.ReportRequest(attempts=[lonely]).SerializeToString())


def test_five_hundred_reports_are_taken_and_one_more_is_not() -> None:
    assert len(read(*[progressed()] * 500)) == 500
    with pytest.raises(Malformed):
        read(*[progressed()] * 501)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_batch_or_malformed(payload: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert reports.batch("gpu-01", payload).node == "gpu-01"


marks = st.builds(
    Watermark, st.builds(AttemptRef, st.just("01J"), st.integers(1, 9)), st.integers(0, 2**53), st.booleans()
)


@given(st.builds(ReportAnswer, st.sampled_from(Intake), st.lists(marks, max_size=3).map(tuple)))
def test_the_answer_arrives_as_it_was_given(answer: ReportAnswer) -> None:
    got = report_pb2.ReportReply.FromString(reports.answer(answer))
    assert answer == ReportAnswer(
        Intake(report_pb2.ReportReply.Outcome.Name(got.outcome)),
        tuple(Watermark(AttemptRef(m.attempt.job_uid, m.attempt.number), m.applied, m.stale) for m in got.watermarks),
    )


@given(
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=30, unique=True).map(sorted),
    st.dictionaries(
        st.from_regex("[a-z][a-z0-9_]{0,20}", fullmatch=True).filter(lambda name: name != "step"),
        st.just(0),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_what_a_trainer_measured_arrives_and_is_shown_as_it_was_written(steps, names, data) -> None:
    value = st.none() | st.floats(allow_nan=False, allow_infinity=False)
    series = {name: data.draw(st.lists(value, min_size=len(steps), max_size=len(steps))) for name in names}
    line = {"kind": "metrics", "time": "2026-01-02T03:04:05.000006Z", "series": {"step": steps, **series}}
    (report,) = read(agent_convert.report(json.dumps(line).encode()))
    assert report.measured is not None
    curves = Curves({1: steps[0]})
    curves.add([chunk(report.measured, job_uid="u", attempt=1, sequence=1)])
    shown = {name: list(zip(curve.steps, curve.values, strict=True)) for name, curve in curves.by_name.items()}
    written = {
        name: [(step, each) for step, each in zip(steps, values, strict=True) if each is not None]
        for name, values in series.items()
    }
    assert shown == written


def test_the_loss_on_the_eval_split_arrives_as_the_trainer_said_it() -> None:
    line = b'{"kind":"progress","time":"2026-01-01T00:00:00Z","step":2,"total_steps":2,"loss":1.5,"eval_loss_before":2.5,"eval_loss":0.0}'
    [before] = [read(agent_convert.report(line))[0].news]
    assert isinstance(before, news.Progressed)
    assert (before.progress.eval_loss_before, before.progress.eval_loss) == (2.5, 0.0)
    [without] = read(progressed(loss=1.5))
    assert isinstance(without.news, news.Progressed)
    assert (without.news.progress.eval_loss_before, without.news.progress.eval_loss) == (None, None)
    assert read(progressed(eval_loss_before=2.5, eval_loss=math.nan))[0].news is None


def test_losses_before_the_first_step_and_after_the_last_are_points_of_their_own_curve() -> None:
    lines = (
        b'{"kind":"metrics","time":"2026-01-01T00:00:00Z","series":{"step":[0],"eval_loss":[2.5]}}',
        b'{"kind":"metrics","time":"2026-01-01T00:00:00Z","series":{"step":[1,2],"loss":[3.0,2.0]}}',
        b'{"kind":"metrics","time":"2026-01-01T00:00:00Z","series":{"step":[2],"eval_loss":[1.5]}}',
    )
    measured = [report.measured for report in read(*map(agent_convert.report, lines))]
    curves = Curves({1: 0})
    curves.add(chunk(each, job_uid="01J", attempt=1, sequence=n) for n, each in enumerate(measured) if each)
    found = {name: (list(curve.steps), list(curve.values)) for name, curve in curves.by_name.items()}
    assert found == {"eval_loss": ([0, 2], [2.5, 1.5]), "loss": ([1, 2], [3.0, 2.0])}
