"""From a submit to the first optimizer step of a real LoRA, cold and warm, of a tiny model that is on the node.

                                            ┌─ spawned: imports torch, transformers, peft ─┐
submit ──► placed, woken, claimed, started ─┤                                              ├─► data, model, step 1
                                            └─ forked from a process that has them ────────┘        in turns
"""

from __future__ import annotations

import json
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.api.httpbody_pb2 import HttpBody

from bench import machine
from bench.attempts import first_step_time
from bench.figures import spread_ms
from bench.report import Line
from tests.support.stack import Stack
from tests.support.tiny_models import write_tiny_model
from trainplane.v1 import job_service_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stack import Part

NAME = "first-step"
TURNS = 5
WARM_PER_TURN = 3
LIMIT_SECONDS = 0.7
TIMES_FASTER = 6.0
SERVER_BYTES = 450_000_000
_STEP_SECONDS = 120.0
_QUIET_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class _Plane:
    """A control plane with a node of either kind."""

    jobs: job_service_pb2_grpc.JobServiceStub
    directory: Path
    model: Path

    def start(self, node: str, number: int) -> float:
        """One submit to the first step; returns when the job is over and forgotten by its node."""
        job_id = f"{node}-{number}"
        body = HttpBody(content_type="application/json", data=json.dumps(self._spec(node, job_id)).encode())
        began = time.time()
        attempt = self.directory / node / "attempts" / f"{self.jobs.SubmitTraining(body).uid}.1"
        took = first_step_time(attempt, deadline_seconds=_STEP_SECONDS) - began
        end = time.monotonic() + _STEP_SECONDS
        while attempt.exists():
            assert time.monotonic() < end, f"{job_id} is not over {_STEP_SECONDS} s after its first step"
            time.sleep(0.01)
        time.sleep(_QUIET_SECONDS)
        return took

    def _spec(self, node: str, job_id: str) -> dict[str, object]:
        return {
            "job_id": job_id,
            "base_model": {"provider": "local", "model_name": str(self.model)},
            "customization": {"method": "lora", "rank": 8, "precision": "fp32"},
            "datasets": [{"source": (self.directory / "rows.jsonl").as_uri()}],
            "tuning_parameters": {"learning_rate": 5e-3, "batch_size": 8, "max_steps": 2},
            "artifacts": {"output_uri": (self.directory / "outputs" / job_id).as_uri() + "/"},
            "placement": {"node": node},
        }


def measure(directory: Path) -> list[Line]:
    """Alternates the two; the first turn is not counted."""
    stack = Stack(directory)
    with ExitStack() as opened:
        opened.callback(stack.stop)
        stack.start(gateway=False)
        stack.join("cold", "--gpus", "0", "--cpus", "8", TRAINPLANE_AGENT_WARM_TRAINERS="false")
        warm_agent = stack.join("warm", "--gpus", "0", "--cpus", "8", TRAINPLANE_AGENT_WARM_TRAINERS="true")
        server = _server(warm_agent)
        rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(98)]
        (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        channel = opened.enter_context(grpc.insecure_channel(stack.address))
        plane = _Plane(job_service_pb2_grpc.JobServiceStub(channel), directory, write_tiny_model(directory / "model"))
        cold, warm = [], []
        for turn in range(TURNS + 1):
            cold_ones = [plane.start("cold", turn)]
            warm_ones = [plane.start("warm", turn * WARM_PER_TURN + number) for number in range(WARM_PER_TURN)]
            if turn:
                cold += cold_ones
                warm += warm_ones
        return [*_lines(cold, warm), _memory(server)]


def _server(agent: Part) -> int:
    """The pid of the process that this agent forks trainers from, once it is ready."""
    end = time.monotonic() + _STEP_SECONDS
    while time.monotonic() < end:
        for line in agent.log.read_text().splitlines():
            if "warm trainers ready" in line:
                return int(json.loads(line)["pid"])
        time.sleep(0.05)
    raise AssertionError(f"no warm trainers within {_STEP_SECONDS} s")


def _lines(cold: list[float], warm: list[float]) -> list[Line]:
    usual, quick = statistics.median(cold), statistics.median(warm)
    model = "a LoRA of a tiny Llama on the node, on CPU"
    return [
        Line(
            NAME,
            f"submit to the first optimizer step, warm: {model}, {len(warm)} jobs one after the other",
            spread_ms(warm),
            f"median under {LIMIT_SECONDS} s",
            passed=quick < LIMIT_SECONDS,
            ratio=quick / LIMIT_SECONDS,
        ),
        Line(
            NAME,
            "how many times faster that is than cold (medians)",
            f"{usual / quick:.1f} times",
            f"at least {TIMES_FASTER:.0f} times",
            passed=usual / quick >= TIMES_FASTER,
            reference=f"cold, {len(cold)} jobs in turns with them: {spread_ms(cold)}",
            ratio=quick / usual,
        ),
    ]


def _memory(server: int) -> Line:
    found = machine.resident_bytes(server)
    return Line(
        NAME,
        "memory of the process that trainers are forked from, which shares it with them",
        f"{found / 1e6:.0f} MB resident",
        f"under {SERVER_BYTES / 1e6:.0f} MB",
        passed=found < SERVER_BYTES,
        ratio=found / SERVER_BYTES,
    )
