"""From the submit's answer to the trainer's first line, against spawning that very process directly.

submit answered ──► placed, woken, claimed, spawned ──► first line        100 times, one after the other,
spawn ───────────────────────────────────────────────► first line         in turns
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.api.httpbody_pb2 import HttpBody

from agent.launch import Launcher
from agent.run import Assignment
from agent.runners.local import LocalRunner
from bench.attempts import first_line_time
from bench.figures import percentile, spread_ms
from bench.report import Line
from tests.support.stack import Stack, mock_spec
from trainplane.v1 import job_service_pb2, job_service_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

NAME = "start"
SUBMITS = 100
WARM_UPS = 3
FACTOR = 1.2
ALLOWANCE_SECONDS = 0.030
QUIET_SECONDS = 0.1
_END_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Plane:
    """A control plane with one idle agent."""

    jobs: job_service_pb2_grpc.JobServiceStub
    attempts: Path
    outputs: Path

    def start(self, number: int, copy_to: Path) -> float:
        """One submit to the first line; then the job is cancelled and gone. Its assignment is copied."""
        job_id = f"start-{number}"
        # It waits at its first step, so that its directory is there until it was looked at.
        spec = mock_spec(job_id, self.outputs / job_id, hang_at_step=1)
        body = HttpBody(content_type="application/json", data=json.dumps(spec).encode())
        uid = self.jobs.SubmitTraining(body).uid
        answered = time.time()
        directory = self.attempts / f"{uid}.1"
        took = first_line_time(directory) - answered
        shutil.copyfile(directory / "assignment.json", copy_to)
        self.jobs.CancelJob(job_service_pb2.CancelJobRequest(job_id=job_id))
        end = time.monotonic() + _END_SECONDS
        while directory.exists():
            assert time.monotonic() < end, f"{job_id} is still there {_END_SECONDS} s after it was cancelled"
            time.sleep(0.01)
        time.sleep(QUIET_SECONDS)
        return took


@dataclass(frozen=True, slots=True)
class _Direct:
    """The same process, with nothing before it: the agent's own runner and command line."""

    runner: LocalRunner
    launcher: Launcher
    root: Path

    def start(self, number: int, assignment: Path) -> float:
        """Spawns it, and kills it once it has written."""
        content = assignment.read_bytes()
        directory = self.root / f"direct.{number}"
        (directory / "logs").mkdir(parents=True)
        shutil.copyfile(assignment, directory / "assignment.json")
        launch = self.launcher.prepare(Assignment.parse(content), directory)
        began = time.time()
        process = self.runner.start(launch)
        took = first_line_time(directory) - began
        os.killpg(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        time.sleep(QUIET_SECONDS)
        return took


def measure(directory: Path) -> list[Line]:
    """Alternates the two; the first few are not counted."""
    stack = Stack(directory)
    with ExitStack() as opened:
        opened.callback(stack.stop)
        stack.start(gateway=False)
        stack.join("node-1", "--gpus", "0", "--cpus", "8")
        channel = opened.enter_context(grpc.insecure_channel(stack.address))
        plane = _Plane(
            job_service_pb2_grpc.JobServiceStub(channel),
            attempts=directory / "node-1" / "attempts",
            outputs=directory / "outputs",
        )
        direct = _Direct(LocalRunner(), Launcher(bounds_enforced=False), directory / "direct")
        started, spawned = [], []
        for number in range(WARM_UPS + SUBMITS):
            assignment = directory / "assignment.json"
            started.append(plane.start(number, assignment))
            spawned.append(direct.start(number, assignment))
    return [_line(started[WARM_UPS:], spawned[WARM_UPS:])]


def _line(started: list[float], spawned: list[float]) -> Line:
    figure, reference = percentile(started, 99), percentile(spawned, 99)
    limit = FACTOR * reference + ALLOWANCE_SECONDS
    return Line(
        NAME,
        f"submit's answer to the trainer's first line, {SUBMITS} jobs one after the other, one idle agent",
        spread_ms(started),
        f"p99 at most {FACTOR} x the reference's + {ALLOWANCE_SECONDS * 1e3:.0f} ms = {limit * 1e3:.1f} ms",
        passed=figure <= limit,
        reference=f"the same process spawned directly: {spread_ms(spawned)}",
        ratio=figure / reference,
    )
