"""What idle processes hold: a control plane after a thousand jobs, and an agent."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bench import machine
from bench.peers import peer
from bench.report import Line
from bench.submits import SUBMIT_METHOD
from bench.submitting import Outcome, Round, Span
from tests.support.stack import Stack

NAME = "memory"
JOBS = 1_000
CONTROL_PLANE_BYTES = 150_000_000
AGENT_BYTES = 90_000_000
IDLE_SECONDS = 5.0
_SUBMIT_SECONDS = 60.0


def measure(directory: Path) -> list[Line]:
    """Submits, waits until nothing happens any more, and looks."""
    stack = Stack(directory)
    with ExitStack() as opened:
        opened.callback(stack.stop)
        stack.start(gateway=False)
        agent = stack.join("node-1", "--gpus", "0", "--cpus", "8")
        with peer("bench.submitting") as clients:
            clients.tell(asdict(Round(stack.address, SUBMIT_METHOD, "memory", clients=10, at_most=JOBS)))
            assert clients.line() == "connected"
            clients.tell(asdict(Span(time.time(), time.time() + _SUBMIT_SECONDS)))
            outcome = Outcome(**clients.answer())
        assert len(outcome.acknowledged) == JOBS, f"{len(outcome.acknowledged)} jobs accepted: {outcome.failures}"
        assert stack.controlplane.process is not None
        assert agent.process is not None
        _settle(stack.controlplane.process.pid)
        return [
            _line(
                f"memory of an idle control plane that has {JOBS:,} jobs",
                machine.resident_bytes(stack.controlplane.process.pid),
                CONTROL_PLANE_BYTES,
            ),
            _line("memory of an idle agent", machine.resident_bytes(agent.process.pid), AGENT_BYTES),
            _torch(agent.process.pid),
        ]


def _settle(pid: int) -> None:
    """Waits until the process takes little CPU time: deliveries and publishing are done."""
    for _ in range(8):
        before = machine.cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        if machine.cpu_seconds(pid) - before < 0.1 * IDLE_SECONDS:
            return


def _line(measured: str, found: int, limit: int) -> Line:
    return Line(
        NAME,
        measured,
        f"{found / 1e6:.0f} MB resident",
        f"under {limit / 1e6:.0f} MB",
        passed=found < limit,
        ratio=found / limit,
    )


def _torch(pid: int) -> Line:
    mapped = sum("torch" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return Line(NAME, "torch in an idle agent", f"{mapped} mappings", "none", passed=not mapped)
