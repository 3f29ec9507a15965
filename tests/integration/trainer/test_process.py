"""The trainer as a process of its own: how it begins, and how it is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from agent.checkpoint import verified
from tests.integration.trainer.process import ROOT
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.trainer.attempts import Attempt


def fake(directory: Path, *, deadline_seconds: float | None = None, **knobs: Any) -> Path:
    spec = {"backend": "mock", "backend_options": knobs, "base_model": {"model_name": "/m"}}
    (directory / "assignment.json").write_text(
        json.dumps({"uid": "u", "job_id": "j", "spec": spec, "deadline_seconds": deadline_seconds})
    )
    return directory


FAKE = "agent.trainer.fake"


@pytest.mark.parametrize("module", ["agent.trainer", FAKE])
def test_nothing_is_imported_before_the_first_line(module: str):
    """But what the interpreter has anyhow, and the first line's own module."""
    program = f"import sys, runpy; before = set(sys.modules); import {module}.__main__; print(*sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name for name in ran.stdout.split() if name.partition(".")[0] != "agent"}
    assert imported <= {"__future__", "time"}


def test_what_only_a_quantized_base_needs_is_not_loaded_for_another():
    program = (
        "import sys; from agent.trainer import isolation; isolation.isolate(()); "
        "isolation.leave_out_libraries(quantizing=False); import peft; from agent.trainer import model; "
        "sys.exit(any(name.partition('.')[0] in ('bitsandbytes', 'boto3') for name, found in sys.modules.items() if found))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


async def test_sigterm_ends_a_training_with_143_a_checkpoint_and_no_last_word(attempt: Attempt, start: Any):
    attempt.assign(tuning_parameters={"max_steps": 1_000_000})
    process = start("agent.trainer", attempt.directory)
    await eventually(lambda: "progress" in process.kinds(), deadline_seconds=60)
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert process.kinds()[0] == "started"
    assert not {"failed", "finished"} & set(process.kinds())
    [place] = (attempt.directory / "checkpoints").iterdir()
    points = [step for told in attempt.said("metrics") for step in told["series"]["step"]]
    assert points == list(range(1, verified(place).step + 1))


async def test_the_deadline_ends_a_training_while_the_main_thread_is_busy(attempt: Attempt, start: Any):
    attempt.assign(tuning_parameters={"max_steps": 1_000_000})
    path = attempt.directory / "assignment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "deadline_seconds": 0.5}))
    process = start("agent.trainer", attempt.directory)
    assert process.wait() == 1
    last = json.loads(process.lines[-1])
    assert (last["kind"], last["reason"]) == ("failed", "DEADLINE_EXCEEDED")
    assert "resources.max_duration_minutes" in last["message"]


def test_without_a_directory_it_says_how_it_is_used():
    ran = subprocess.run([sys.executable, "-m", FAKE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "usage" in ran.stderr


def test_the_fake_keeps_the_contract(tmp_path: Path, start: Any):
    process = start(
        FAKE,
        fake(
            tmp_path,
            steps=3,
            step_seconds=0.0,
            progress_every_step=True,
            output_bytes=3_000_000,
            log_lines=2,
            eval_loss=True,
        ),
    )
    assert process.wait() == 0
    assert process.kinds() == ["started", *["phase"] * 3, *["progress"] * 3, "phase", "progress", "finished"]
    assert process.log.count("line=") == 6
    from safetensors import safe_open

    with safe_open(tmp_path / "output" / "adapter_model.safetensors", framework="np") as weights:
        assert weights.get_tensor("fake").nbytes == 3_000_000
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "provenance.json",
    ]


def test_the_fake_says_what_the_real_one_says(tmp_path: Path, attempt: Attempt, start: Any):
    """The same fields in every kind of report that both write."""
    eval_rows = attempt.dataset([{"text": "hello there"}], "eval.jsonl")
    attempt.assign(
        datasets=[{"source": attempt.dataset([{"text": "hello there"}])}, {"source": eval_rows, "split": "eval"}]
    )
    assert attempt.run() == 0
    (tmp_path / "fake").mkdir()
    process = start(FAKE, fake(tmp_path / "fake", steps=2, step_seconds=0.0, eval_loss=True, metrics=True))
    assert process.wait() == 0
    metrics = [json.loads(line) for line in process.lines if json.loads(line)["kind"] == "metrics"]
    assert metrics[0]["series"] == {"step": [0], "eval_loss": [2.6]}
    for number in range(3):
        assert list(metrics[number]["series"]) == list(attempt.said("metrics")[number]["series"])
    assert [said["series"]["step"] for said in metrics] == [[0], [1, 2], [2]]
    for kind in ("phase", "progress", "metrics", "finished"):
        real = [set(report) for report in attempt.said(kind)]
        faked = [set(json.loads(line)) for line in process.lines if json.loads(line)["kind"] == kind]
        assert (faked[0], faked[-1]) == (real[0], real[-1])


@pytest.mark.parametrize(
    ("knobs", "status", "last"),
    [
        ({"fail_at_step": 2, "reason": "DATASET_INVALID"}, 1, "DATASET_INVALID"),
        ({"nan_at_step": 2}, 1, "LOSS_NOT_FINITE"),
        ({"no_such_knob": 1}, 1, "CONFIG_INVALID"),
        ({"crash_at_step": 2}, -signal.SIGABRT, None),
        ({"exit_code": 7}, 7, None),
    ],
)
def test_the_fake_goes_wrong_as_told(tmp_path: Path, start: Any, knobs: dict[str, Any], status: int, last: str | None):
    process = start(FAKE, fake(tmp_path, steps=3, step_seconds=0.0, **knobs))
    assert process.wait() == status
    assert json.loads(process.lines[-1]).get("reason") == last
    assert not (tmp_path / "output").exists()


def test_a_torn_line_is_one_line(tmp_path: Path, start: Any):
    process = start(FAKE, fake(tmp_path, steps=3, step_seconds=0.0, torn_line_at_step=2, progress_every_step=True))
    assert process.wait() == 0
    with pytest.raises(ValueError, match="Expecting"):
        process.kinds()
    assert len(process.lines) == 9


async def test_a_hanging_fake_ends_at_sigterm(tmp_path: Path, start: Any):
    process = start(FAKE, fake(tmp_path, steps=3, step_seconds=0.0, hang_at_step=2))
    await eventually(lambda: "progress" in process.kinds())
    process.popen.terminate()
    assert process.wait() == 143


def test_a_hanging_fake_ends_at_its_deadline(tmp_path: Path, start: Any):
    process = start(FAKE, fake(tmp_path, steps=3, hang_at_step=1, deadline_seconds=0.1))
    assert process.wait() == 1
    assert json.loads(process.lines[-1])["reason"] == "DEADLINE_EXCEEDED"


async def test_a_fake_that_ignores_sigterm_and_its_grandchild_must_be_killed(tmp_path: Path, start: Any):
    process = start(
        FAKE, fake(tmp_path, steps=3, step_seconds=0.0, hang_at_step=2, ignore_sigterm=True, grandchild=True)
    )
    await eventually(lambda: "progress" in process.kinds())
    grandchild = int((tmp_path / "grandchild.pid").read_text())
    try:
        assert os.getsid(grandchild) == grandchild != os.getsid(process.popen.pid)
        os.killpg(process.popen.pid, signal.SIGTERM)
        os.kill(grandchild, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.popen.kill()
        assert process.wait() == -signal.SIGKILL
        os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_flood_is_distinct_and_at_its_rate(tmp_path: Path, start: Any):
    began = time.monotonic()
    process = start(
        FAKE,
        fake(tmp_path, steps=1, step_seconds=0.0, reports_per_second=400.0, report_seconds=0.5, report_kind="warning"),
    )
    assert process.wait() == 0
    assert time.monotonic() - began >= 0.45
    messages = [json.loads(line)["message"] for line in process.lines if '"warning"' in line]
    assert len(messages) == len(set(messages)) == 200
