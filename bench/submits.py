"""Accepted submits a second, durable, against a bare grpc.aio echo of the same message; and none of them is ever lost.

echo ─ submits ─ echo ─ submits ─ …     pairs in turns: what else the machine does meets both
submits, SIGKILL in the middle, restart ──► every acknowledged id is found
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import grpc

from bench import echo, machine
from bench.peers import Peer, peer
from bench.report import Line
from bench.submitting import Outcome, Round, Span, job_id
from tests.support.stack import Stack
from trainplane.v1 import job_service_pb2, job_service_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

NAME = "submits"
LIMIT = 0.5
CLIENTS = 50
CLIENT_PROCESSES = 2
PAIRS = 6
ROUND_SECONDS = 2.5
WARM_UP_SECONDS = 1.0
_AHEAD_SECONDS = 0.1
SUBMIT_METHOD = "/trainplane.v1.JobService/SubmitTraining"


@dataclass(frozen=True, slots=True)
class _Rate:
    per_second: float
    cpu_microseconds: float
    """The server's, for each call; its children's, too."""
    busy: float
    """How many cores the server took."""


@dataclass
class _Load:
    """The client processes, and what was acknowledged to them."""

    clients: list[Peer]
    acknowledged: set[str] = field(default_factory=set)
    rounds: int = 0

    def begin(self, address: str, method: str, *, seconds: float) -> Span:
        """Has every process connect, then tells them to submit; answers from when until when they will."""
        self.rounds += 1
        told = Round(address, method, "", CLIENTS // len(self.clients))
        for number, client in enumerate(self.clients):
            client.tell(asdict(replace(told, prefix=f"bench-{self.rounds}-{number}")))
        for client in self.clients:
            assert client.line() == "connected"
        start = time.time() + _AHEAD_SECONDS
        span = Span(start, start + seconds)
        for client in self.clients:
            client.tell(asdict(span))
        return span

    def outcomes(self, *, kept: bool) -> list[Outcome]:
        """What came of it; `kept` remembers the acknowledged ids."""
        found = [Outcome(**client.answer()) for client in self.clients]
        if kept:
            for number, outcome in enumerate(found):
                prefix = f"bench-{self.rounds}-{number}"
                self.acknowledged.update(job_id(prefix, each) for each in outcome.acknowledged)
        return found

    def rate(self, address: str, method: str, *, pid: int, seconds: float) -> _Rate:
        """One round against one server."""
        span = self.begin(address, method, seconds=seconds)
        time.sleep(max(0.0, span.start - time.time()))
        before = machine.cpu_seconds(pid)
        time.sleep(max(0.0, span.end - time.time()))
        cpu = machine.cpu_seconds(pid) - before
        found = self.outcomes(kept=method == SUBMIT_METHOD)
        failures = [failure for outcome in found for failure in outcome.failures]
        assert not failures, f"{len(failures)} clients failed: {failures[0]}"
        count = sum(outcome.in_time for outcome in found)
        return _Rate(count / seconds, cpu / count * 1e6, cpu / seconds)


def measure(directory: Path) -> list[Line]:
    """Alternates the two, then kills the control plane under load."""
    stack = Stack(directory)
    with ExitStack() as opened:
        opened.callback(stack.stop)
        stack.start(gateway=False)
        reference = opened.enter_context(peer("bench.echo"))
        address = reference.line().removeprefix("ready ")
        load = _Load([opened.enter_context(peer("bench.submitting")) for _ in range(CLIENT_PROCESSES)])

        def pair(seconds: float) -> tuple[_Rate, _Rate]:
            assert stack.controlplane.process is not None
            # What is still owed to webhooks must not cost the echo its core.
            stack.controlplane.process.send_signal(signal.SIGSTOP)
            echoed = load.rate(address, echo.METHOD, pid=reference.pid, seconds=seconds)
            stack.controlplane.process.send_signal(signal.SIGCONT)
            submitted = load.rate(stack.address, SUBMIT_METHOD, pid=stack.controlplane.process.pid, seconds=seconds)
            return echoed, submitted

        pair(WARM_UP_SECONDS)
        pairs = [pair(ROUND_SECONDS) for _ in range(PAIRS)]
        return [_ratio(pairs), _survival(stack, load)]


def _ratio(pairs: list[tuple[_Rate, _Rate]]) -> Line:
    ratios = [submitted.per_second / echoed.per_second for echoed, submitted in pairs]
    echoed, submitted = (_median([pair[side] for pair in pairs]) for side in (0, 1))
    ratio = statistics.median(ratios)
    return Line(
        NAME,
        f"accepted submits a second, durable, {CLIENTS} gRPC clients in {CLIENT_PROCESSES} processes; "
        f"median of {PAIRS} ratios, from {min(ratios):.2f} to {max(ratios):.2f}",
        _shown(submitted),
        f"at least {LIMIT} of the echo",
        passed=ratio >= LIMIT,
        reference=f"grpc.aio echo: {_shown(echoed)}",
        ratio=ratio,
    )


def _median(rates: list[_Rate]) -> _Rate:
    return _Rate(
        statistics.median(rate.per_second for rate in rates),
        statistics.median(rate.cpu_microseconds for rate in rates),
        statistics.median(rate.busy for rate in rates),
    )


def _shown(rate: _Rate) -> str:
    return f"{rate.per_second:,.0f}/s ({rate.cpu_microseconds:.0f} us of CPU each, {rate.busy:.2f} cores)"


def _survival(stack: Stack, load: _Load) -> Line:
    span = load.begin(stack.address, SUBMIT_METHOD, seconds=ROUND_SECONDS)
    time.sleep(max(0.0, (span.start + span.end) / 2 - time.time()))
    assert stack.controlplane.process is not None
    os.kill(stack.controlplane.process.pid, signal.SIGKILL)
    cut = load.outcomes(kept=True)
    stack.controlplane.kill()
    stack.start_controlplane()
    found = _listed(stack.address)
    lost = sorted(load.acknowledged - found)
    assert any(outcome.failures for outcome in cut), "no client noticed the kill: it came after the round"
    return Line(
        NAME,
        "acknowledged submits found after SIGKILL under load and a restart"
        + (f"; lost, among others: {lost[0]}" if lost else ""),
        f"{len(load.acknowledged) - len(lost):,} of {len(load.acknowledged):,}",
        "all",
        passed=not lost and bool(load.acknowledged),
    )


def _listed(address: str) -> set[str]:
    found: set[str] = set()
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        jobs = job_service_pb2_grpc.JobServiceStub(channel)
        token = ""
        while True:
            page = jobs.ListJobs(job_service_pb2.ListJobsRequest(page_size=500, page_token=token), timeout=60)
            found.update(job.job_id for job in page.jobs)
            token = page.next_page_token
            if not token:
                return found
