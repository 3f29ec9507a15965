"""What the fake trainer does after its first line. Standard library only, and little of it: it starts in some 20 ms."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from agent.trainer import stacks, warden
from agent.trainer.failures import ConfigInvalid, LossNotFinite, TrainingFailure
from agent.trainer.fake.knobs import read_knobs
from agent.trainer.fake.output import write_checkpoint, write_output
from agent.trainer.metrics import MetricsRecorder, Point
from agent.trainer.reports import Reports
from agent.trainer.stopping import PATIENCE_SECONDS, STOP, Stopped, Terms

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILED_STATUS = 1
GRANDCHILD_SECONDS = 600
PEAK_LEARNING_RATE = 2e-4
TOKENS_PER_STEP = 512


class _Told(TrainingFailure):
    """A failure with the reason that the knobs name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def pretend(attempt_directory: str) -> int:
    """Read the assignment, make the steps, write the output. Returns the exit status."""
    stacks.write_when_asked()
    reports = Reports(attempt_directory)
    try:
        document = _assignment(attempt_directory)
        knobs = read_knobs(document["spec"].get("backend_options") or {})
        if knobs["grandchild"]:
            _leave_grandchild(attempt_directory, eat_memory_mb=knobs["eat_memory_mb"])
        terms = _terms(document, attempt_directory)
        warden.start(reports, terms, heed_sigterm=not knobs["ignore_sigterm"])
        for phase in ("FETCHING_MODEL", "PREPARING_DATA", "TRAINING"):
            reports.phase(phase)
        _held = [] if knobs["grandchild"] else _eat(knobs["eat_memory_mb"])
        _flood(reports, knobs)
        # One that says that it writes checkpoints is asked for a last one, as the real trainer always is.
        with STOP.heeded() if knobs["checkpoint_every"] else nullcontext():
            _make_steps(reports, knobs)
        if knobs["exit_code"]:
            return int(knobs["exit_code"])
        write_output(attempt_directory + "/output", document, weights_bytes=knobs["output_bytes"])
    except Stopped:
        return warden.conclude(reports, terms)
    except TrainingFailure as failure:
        reports.failed(failure.reason, str(failure))
        return FAILED_STATUS
    reports.finished()
    return 0


def _assignment(attempt_directory: str) -> dict[str, Any]:
    try:
        with open(attempt_directory + "/assignment.json", "rb") as file:  # noqa: PTH123 - starts without pathlib
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"assignment.json cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("spec"), dict):
        raise ConfigInvalid("assignment.json has no spec")
    return document


def _terms(document: Mapping[str, Any], attempt_directory: str) -> Terms:
    patience = document.get("checkpoint_grace_seconds")
    return Terms(
        attempt_directory,
        document.get("deadline_seconds"),
        PATIENCE_SECONDS if patience is None else float(patience),
        (document["spec"].get("artifacts") or {}).get("output_uri") or "",
        str(document.get("uid", "")),
    )


def _eat(mebibytes: int) -> list[bytes]:
    """So much memory, written to and so really taken."""
    return [b"\1" * (1 << 20) for _ in range(mebibytes)]


def _leave_grandchild(attempt_directory: str, *, eat_memory_mb: int) -> None:
    """A child in a session of its own that ignores SIGTERM. Call before any thread exists."""
    child = os.fork()
    if child:
        with open(attempt_directory + "/grandchild.pid", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(f"{child}\n")
        return
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _held = _eat(eat_memory_mb)
    time.sleep(GRANDCHILD_SECONDS)
    os._exit(0)


def _flood(reports: Reports, knobs: Mapping[str, Any]) -> None:
    """Distinct reports at a steady rate: what a benchmark of everything behind a trainer needs."""
    rate, seconds = knobs["reports_per_second"], knobs["report_seconds"]
    began = time.monotonic()
    for number in range(1, int(rate * seconds) + 1):
        due = (number - 1) // knobs["reports_at_once"] * knobs["reports_at_once"] / rate
        ahead = began + due - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        match knobs["report_kind"]:
            case "phase":
                reports.phase(f"FLOOD_{number}")
            case "progress":
                _report_progress(reports, number, total=int(rate * seconds), step_seconds=1 / rate)
            case _:
                reports.warning("FLOOD", f"report {number}")


def _make_steps(reports: Reports, knobs: Mapping[str, Any]) -> None:
    total = knobs["steps"]
    reported_at = 0.0
    metrics = MetricsRecorder(reports, total_steps=total) if knobs["metrics"] else None
    if metrics and knobs["eval_loss"]:
        metrics.evaluated(0, 2.6)
    for step in range(1, total + 1):
        _go_wrong(step, reports, knobs)
        time.sleep(knobs["step_seconds"])
        for line in range(knobs["log_lines"]):
            sys.stdout.write(f"step={step}/{total} line={line + 1}\n")
        sys.stdout.flush()
        if metrics:
            metrics.add(_point(step, total=total, step_seconds=knobs["step_seconds"]))
        now = time.monotonic()
        if knobs["progress_every_step"] or step in (1, total) or now - reported_at >= 1.0:
            reported_at = now
            _report_progress(reports, step, total=total, step_seconds=knobs["step_seconds"])
        _keep(step, reports, knobs, metrics)
    if knobs["eval_loss"]:
        reports.phase("EVALUATING")
        _report_progress(reports, total, total=total, step_seconds=0.0, eval_loss_before=2.6, eval_loss=1.3)
        if metrics:
            metrics.evaluated(total, 1.3)


def _keep(step: int, reports: Reports, knobs: Mapping[str, Any], metrics: MetricsRecorder | None) -> None:
    """Write a checkpoint if it is time; the last one, where the stop is asked for."""
    every = knobs["checkpoint_every"]
    if every and (step % every == 0 or STOP.asked):
        if metrics:
            metrics.report()
        written = write_checkpoint(reports.directory, step)
        reports.checkpoint(
            step,
            size_bytes=written.size_bytes,
            manifest_digest=written.manifest_digest,
            oldest_step=written.oldest_step,
        )
    if STOP.asked:
        raise Stopped


def _go_wrong(step: int, reports: Reports, knobs: Mapping[str, Any]) -> None:
    """What the knobs want of this step."""
    if step == knobs["torn_line_at_step"]:
        reports.tear('{"kind":"progress","step":')
    if step == knobs["crash_at_step"]:
        os.abort()
    if step == knobs["nan_at_step"]:
        raise LossNotFinite(f"tuning_parameters.learning_rate: at step {step} the loss is nan")
    if step == knobs["fail_at_step"]:
        raise _Told(knobs["reason"], f"the fake trainer was told to fail at step {step}")
    if step == knobs["hang_at_step"]:
        while True:
            signal.pause()


def _point(step: int, *, total: int, step_seconds: float) -> Point:
    return Point(
        step=step,
        loss=round(1.0 + 1.5 * (1 - step / total) ** 2, 6),
        learning_rate=PEAK_LEARNING_RATE * (1 - (step - 1) / total),
        grad_norm=0.8,
        tokens_per_second=round(TOKENS_PER_STEP / max(step_seconds, 1e-3), 1),
    )


def _report_progress(reports: Reports, step: int, *, total: int, step_seconds: float, **more: float) -> None:
    point = _point(step, total=total, step_seconds=step_seconds)
    reports.append(
        "progress",
        **point._asdict(),
        total_steps=total,
        epoch=round(3 * step / total, 4),
        gpu_memory_bytes=0,
        remaining_seconds=round((total - step) * step_seconds, 1),
        **more,
    )
