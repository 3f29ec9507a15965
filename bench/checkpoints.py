"""What a checkpoint, and its way to S3, cost a training: a real model's LoRA through the whole product.

    step ─ step ─ [checkpoint] ─ step ─ step ─ step ─ [checkpoint] ─ step …
                  └ the training waits └─ the agent's child stores it ─┘ and takes processor time from the steps

The first is what the trainer's log says of each; the second is what the agent and its children used of the processors,
as if the training had wanted all of it. Both are held against the processor time of the steps of the same run: what
else runs on the machine makes steps longer, and must not make checkpoints look cheap. It also is more than what the
wall times of steps with and without an upload beside them differ by.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import psutil
from google.api.httpbody_pb2 import HttpBody

from agent.checkpoint import MANIFEST
from bench.report import Line
from tests.support.aws import CREDENTIALS, REGION, Aws, aws
from tests.support.stack import Stack
from trainplane.demo.model import make_model_dir
from trainplane.v1 import job_service_pb2 as service
from trainplane.v1 import job_service_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

NAME = "checkpoints"
EVERY = 8
"""Steps between the checkpoints that are measured: more often than one would, so that there are many."""
MEASURED = 5
STATED_STEPS = 50
DEFAULT_SECONDS = 300.0
LIMIT = 0.02
RANK = 16
BATCH_SIZE = 1
_LONGEST_SECONDS = 900.0
_WRITTEN = re.compile(r"checkpoint step=(\d+) bytes=(\d+) .* seconds=([0-9.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Look:
    """What is known when a checkpoint is stored. Seconds are the processors'."""

    step: int
    """Of the last that was told."""
    stored: int
    """Checkpoints."""
    agents_seconds: float
    """By the agent and the children that have ended."""
    trainers_seconds: float


def measure(directory: Path) -> list[Line]:
    """One job, cancelled when enough checkpoints were stored."""
    stack = Stack(directory)
    with ExitStack() as opened:
        store = opened.enter_context(aws())
        store.make_bucket()
        opened.callback(stack.stop)
        stack.start(gateway=False)
        flags = ("--s3-endpoint", store.moto_url, "--s3-region", REGION)
        agent = stack.join("n1", "--gpus", "0", "--cpus", "8", *flags, **CREDENTIALS)
        assert agent.process is not None
        make_model_dir(directory / "model", say=lambda _words: None)
        channel = opened.enter_context(grpc.insecure_channel(stack.address))
        jobs = job_service_pb2_grpc.JobServiceStub(channel)
        body = HttpBody(content_type="application/json", data=json.dumps(_spec(directory)).encode())
        uid = jobs.SubmitTraining(body).uid
        attempt = directory / "n1" / "attempts" / f"{uid}.1"
        place = f"out/.checkpoints/{uid}/"
        first = _when_stored(attempt, EVERY, store, place, agent.process.pid)
        last = _when_stored(attempt, EVERY * (MEASURED + 1), store, place, agent.process.pid)
        written = _WRITTEN.findall((attempt / "logs" / "rank-0.log").read_text())[1:]
        jobs.CancelJob(service.CancelJobRequest(job_id="bench"))
    return [_line(first, last, written)]


def _spec(directory: Path) -> dict[str, Any]:
    words = "The quick brown fox jumps over the lazy dog while the rain in Spain stays mainly in the plain. " * 12
    rows = [{"text": f"Note {number}. {words}"} for number in range(64)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "job_id": "bench",
        "base_model": {"provider": "local", "model_name": str(directory / "model")},
        "customization": {"method": "lora", "rank": RANK, "precision": "fp32", "target_modules": ["all-linear"]},
        "datasets": [{"source": (directory / "rows.jsonl").as_uri()}],
        "tuning_parameters": {
            "batch_size": BATCH_SIZE, "max_sequence_length": 128, "max_steps": 100_000, "checkpoint_steps": EVERY
        },
        "artifacts": {"output_uri": "s3://bucket/out/"},
    }  # fmt: skip


def _when_stored(attempt: Path, step: int, store: Aws, place: str, agent: int) -> _Look:
    """Wait for a checkpoint of that step or a later one in the store, and for the end of the child that brought it."""
    end = time.monotonic() + _LONGEST_SECONDS
    while _newest(store, place) < step:
        assert time.monotonic() < end, f"no checkpoint from step {step} on is stored after {_LONGEST_SECONDS} s"
        said = _said(attempt)
        assert not said or said[-1]["kind"] != "failed", said[-1]["message"]
        time.sleep(0.5)
    while _uploading(agent):
        time.sleep(0.05)
    said = _said(attempt)
    last = [each for each in said if each["kind"] == "progress"][-1]
    # The trainer's last checkpoint so far may still be on its way: it is one of those that are not counted.
    stored = attempt.parents[2].joinpath("n1.log").read_text().count('"checkpoint stored"')
    return _Look(last["step"], stored, _processors(agent), _processors(said[0]["pid"]))


def _newest(store: Aws, place: str) -> int:
    found = store.client().list_objects_v2(Bucket="bucket", Prefix=place).get("Contents", [])
    whole = [each["Key"].removeprefix(place) for each in found if each["Key"].endswith(f"/{MANIFEST}")]
    return max((int(name.split(".")[0]) for name in whole), default=0)


def _processors(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system + used.children_user + used.children_system


def _uploading(agent: int) -> bool:
    """Whether a child of the agent's brings a checkpoint away; the one that ships the log lives as long as the job."""
    children = psutil.Process(agent).children()
    return sum("agent.uploader" in child.cmdline() for child in children if child.is_running()) > 1


def _said(attempt: Path) -> list[dict[str, Any]]:
    reports = attempt / "reports.jsonl"
    whole = reports.read_bytes().rpartition(b"\n")[0] if reports.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]


def _line(first: _Look, last: _Look, written: list[tuple[str, str, str]]) -> Line:
    cores = len(os.sched_getaffinity(0))
    waits = [float(seconds) for _, _, seconds in written]
    wait, size = statistics.median(waits), int(written[-1][1])
    beside = (last.agents_seconds - first.agents_seconds) / (last.stored - first.stored) / cores
    step = (last.trainers_seconds - first.trainers_seconds) / (last.step - first.step) / cores
    stated, usual = (wait + beside) / (STATED_STEPS * step), (wait + beside) / DEFAULT_SECONDS
    return Line(
        NAME,
        f"what a checkpoint of {size / 1e6:.0f} MB, stored in S3 while training goes on, adds to the steps of "
        f"SmolLM2-135M's LoRA (rank {RANK}, all linear layers, fp32, {BATCH_SIZE} x 128 tokens a step): the trainer's "
        f"wait, and the processor time of agent and uploads by {cores} cores; {len(waits)} checkpoints",
        f"{wait:.2f} s (from {min(waits):.2f} to {max(waits):.2f}) and {beside:.2f} s: {stated:.2%} of the steps' time "
        f"with checkpoint_steps {STATED_STEPS}, {usual:.2%} with the default of one in {DEFAULT_SECONDS / 60:.0f} min",
        f"at most {LIMIT:.0%} with either",
        passed=max(stated, usual) <= LIMIT,
        reference=f"{last.step - first.step} steps of {step:.2f} s: their processor time by {cores} cores",
        ratio=max(stated, usual) / LIMIT,
    )
