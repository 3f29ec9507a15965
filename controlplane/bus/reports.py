"""Reports, between protobuf and news: the hottest conversion of the control plane (5,000 a second, ~5 us each).

What one report says wrongly makes that report unreadable, not the batch: its sequence number still counts, and an agent
that repeats a refused batch for ever would stand still. So a number that is not finite, which the events' JSON cannot
say, drops the report it is in.
"""

from __future__ import annotations

import re
from itertools import pairwise
from math import isfinite, isinf
from typing import TYPE_CHECKING

from controlplane.bus import bounds
from controlplane.bus.bounds import MAX_SECONDS, Malformed, message, word
from controlplane.bus.convert import named, parse
from controlplane.domain import news
from controlplane.domain.job import Progress
from controlplane.domain.metrics import MAX_POINTS, MAX_SERIES, Measured
from controlplane.engine import requests
from trainplane.wire.v1 import report_pb2, sync_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from controlplane.domain.news import AttemptNews

_MICROSECONDS = 1_000_000
_SERIES = re.compile(r"[a-z][a-z0-9_]{0,62}")


def batch(node: str, payload: bytes) -> requests.ReportBatch:
    """Reports by attempt.

    Raises:
        Malformed: it is no such request, has more than 500 reports, or names no attempt or sequence.
    """
    sent = parse(report_pb2.ReportRequest, payload)
    attempts = [_attempt(each) for each in sent.attempts]
    if sum(len(each.reports) for each in attempts) > bounds.MAX_REPORTS:
        raise Malformed(f"more than {bounds.MAX_REPORTS} reports")
    return requests.ReportBatch(node, sent.incarnation, attempts)


def unusable(of: requests.ReportBatch) -> int:
    """How many of its reports could not be read."""
    return sum(report.unreadable for each in of.attempts for report in each.reports)


def _attempt(of: report_pb2.AttemptReports) -> requests.AttemptReports:
    attempt = named(of.attempt)
    if not 1 <= of.first_sequence <= bounds.MAX_COUNT:
        raise Malformed("sequences count from 1")
    number = attempt.number
    return requests.AttemptReports(attempt, of.first_sequence, [_report(each, number) for each in of.reports])


def _report(of: report_pb2.Report, attempt: int) -> requests.Report:
    time = of.time
    seconds = min(max(time.seconds, 0), MAX_SECONDS)
    time_us = seconds * _MICROSECONDS + min(max(time.nanos, 0), 999_999_999) // 1000
    kind = of.WhichOneof("news")
    if kind == "progressed":
        return requests.Report(time_us, _progressed(of.progressed, attempt, time_us))
    if kind == "published":
        return requests.Report(time_us, news.Published(attempt), _output(of.published))
    if kind == "measured":
        return requests.Report(time_us, None, measured=_measured(of.measured))
    read = _NEWS.get(kind)
    return requests.Report(time_us, None if read is None else read(of, attempt))


#: Every other kind; `unreadable`, and what a later version may send, are not in it.
_NEWS: dict[str | None, Callable[[report_pb2.Report, int], AttemptNews | None]] = {
    "started": lambda of, attempt: news.Started(attempt),  # noqa: ARG005 - the pid is the node's business
    "phase_changed": lambda of, attempt: news.PhaseChanged(
        attempt, word(of.phase_changed.phase), message(of.phase_changed.message)
    ),
    "fetched": lambda of, attempt: news.Fetched(attempt, word(of.fetched.base_model_commit)),
    "warned": lambda of, attempt: news.Warned(attempt, word(of.warned.reason), message(of.warned.message)),
    "checkpointed": lambda of, attempt: _checkpointed(of.checkpointed, attempt),
    "failed": lambda of, attempt: news.Failed(attempt, word(of.failed.reason), message(of.failed.message)),
    "stopped": lambda of, attempt: news.Stopped(attempt, word(of.stopped.reason)),
    "finished": lambda of, attempt: news.Finished(attempt),  # noqa: ARG005 - it says nothing more
}


def _checkpointed(of: report_pb2.Checkpointed, attempt: int) -> news.Checkpointed | None:
    """None: it is of no step, or older ones than itself are not all that it says are kept."""
    if of.step < 1 or of.oldest_step > of.step:
        return None
    return news.Checkpointed(
        attempt, of.step, bounds.count(of.size_bytes), word(of.manifest_digest), max(of.oldest_step, 0)
    )


def _progressed(of: report_pb2.Progressed, attempt: int, time_us: int) -> news.Progressed | None:
    epoch, loss, learning_rate, grad_norm = of.epoch, of.loss, of.learning_rate, of.grad_norm
    tokens_per_second, gpu_memory_bytes = of.tokens_per_second, of.gpu_memory_bytes
    # Both or neither; unset ones are 0.
    before, after = of.eval_loss_before, of.eval_loss
    evaluated = of.HasField("eval_loss_before") and of.HasField("eval_loss")
    # An infinity or NaN anywhere makes the sum one, too.
    if not isfinite(epoch + loss + learning_rate + grad_norm + tokens_per_second + gpu_memory_bytes + before + after):
        return None
    return news.Progressed(
        attempt,
        Progress(
            max(of.step, 0),
            max(of.total_steps, 0),
            epoch,
            loss,
            learning_rate,
            grad_norm,
            tokens_per_second,
            gpu_memory_bytes,
            _end_time_us(of.remaining_seconds, time_us),
            before if evaluated else None,
            after if evaluated else None,
        ),
    )


def _measured(of: report_pb2.Measured) -> Measured | None:
    """Points of steps that increase; None: they are no such, or too many."""
    steps = list(of.steps)
    series = {each.name: list(each.values) for each in of.series}
    if not 1 <= len(steps) <= MAX_POINTS or steps[0] < 0 or any(b <= a for a, b in pairwise(steps)):
        return None
    if not 1 <= len(of.series) <= MAX_SERIES or len(series) != len(of.series):
        return None
    for name, values in series.items():
        if not _SERIES.fullmatch(name) or name == "step" or len(values) != len(steps) or any(map(isinf, values)):
            return None
    return Measured(steps, series)


def _end_time_us(remaining_seconds: float, time_us: int) -> int:
    """When training should be done by the writer's clock, which people read it against; 0: unknown."""
    if not 0 <= remaining_seconds <= MAX_SECONDS:  # also false for NaN
        return 0
    return min(time_us + int(remaining_seconds * _MICROSECONDS), MAX_SECONDS * _MICROSECONDS)


def _output(of: report_pb2.Published) -> requests.Output:
    return requests.Output(
        bounds.path(of.output_uri),
        word(of.manifest_digest),
        tuple(
            requests.OutputFile(bounds.path(each.path), bounds.count(each.size_bytes), word(each.sha256))
            for each in of.files
        ),
    )


def answer(of: requests.ReportAnswer) -> bytes:
    """The answer to reports."""
    return report_pb2.ReportReply(
        outcome=of.outcome.value,
        watermarks=[
            report_pb2.ReportReply.Watermark(
                attempt=sync_pb2.AttemptRef(job_uid=mark.attempt.job_uid, number=mark.attempt.number),
                applied=mark.applied,
                stale=mark.stale,
            )
            for mark in of.watermarks
        ],
    ).SerializeToString()
