"""Lost replies, refusals, crashes, a broker that goes away, places that take no output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.agent.conftest import Agent, alive, mock_spec, until

if TYPE_CHECKING:
    from tests.support.fake_control_plane import FakeControlPlane
    from tests.support.natsd import Natsd

QUICK = {"steps": 3, "step_seconds": 0.02}
LONG = {"steps": 100_000, "step_seconds": 0.05}


async def test_lost_replies_lead_to_the_same_requests_again_and_to_no_gap(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    control_plane.moods.lose_replies.update(sync=1, claim=1, report=2, commit=1, log=1)
    agent.start(TRAINPLANE_AGENT_ANSWER_TIMEOUT="PT0.3S")
    job = await control_plane.assign(mock_spec(tmp_path, **QUICK))
    await until(lambda: job.last("published"))
    batches = control_plane.batches[job.key]
    assert batches[0][0] == batches[1][0] == batches[2][0] == 1
    assert job.kinds().count("started") == 1
    assert control_plane.moods.lose_replies.total() == 0


async def test_a_control_plane_that_is_not_ready_is_asked_again_and_believed_nothing(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    control_plane.moods.not_now.update(sync=2, claim=2, report=2, commit=3, log=1)
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **QUICK))
    await until(lambda: job.last("published"))
    assert control_plane.moods.not_now.total() == 0


async def test_answers_that_come_twice_change_nothing(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    control_plane.moods.answer_twice = True
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **QUICK))
    await until(lambda: job.last("published"))
    assert job.kinds().count("published") == 1


async def test_a_refused_claim_starts_nothing_and_leaves_nothing(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    control_plane.moods.refuse_claim = "NOT_CURRENT"
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **QUICK))
    await until(lambda: agent.events("attempt forgotten"))
    assert not agent.directory(job).exists()
    assert agent.events("trainer started") == []


async def test_a_refused_commit_publishes_nothing_and_waits_for_the_stop_order(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    control_plane.moods.refuse_commit = "CANCELLED"
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **QUICK))
    await until(lambda: agent.events("commit refused"))
    assert (tmp_path / "out" / ".attempts" / "1" / "manifest.json").exists()
    await control_plane.stop(job)
    await until(lambda: job.last("stopped"))
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_line_that_was_torn_counts_and_those_around_it_are_read(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    spec = mock_spec(tmp_path, steps=3, step_seconds=0.02, torn_line_at_step=2, progress_every_step=True)
    job = await control_plane.assign(spec)
    await until(lambda: job.last("published"))
    assert job.kinds().count("unreadable") == 1
    lines = (agent.directory(job) / "reports.jsonl").read_text().splitlines()
    assert len(job.reports) == len(lines)


async def test_a_crash_is_told_with_the_signal_and_the_logs_last_lines(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, steps=5, step_seconds=0.02, crash_at_step=4))
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "TRAINER_CRASHED"
    assert "SIGABRT" in failed.message
    assert "step=3/5" in failed.message


async def test_an_exit_without_a_terminal_report_is_a_crash_that_names_the_status(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, steps=1, step_seconds=0.01, exit_code=7))
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "TRAINER_CRASHED"
    assert "status 7" in failed.message


async def test_a_failure_of_the_trainers_own_stands_alone(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, fail_at_step=2, reason="DATASET_EMPTY"))
    await until(lambda: job.stage == "ENDED")
    await until(lambda: job.last("failed"))
    assert [kind for kind in job.kinds() if kind in {"failed", "stopped"}] == ["failed"]
    assert job.last("failed").reason == "DATASET_EMPTY"


async def test_an_output_prefix_of_another_job_is_refused_and_left_as_it_is(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    first = await control_plane.assign(mock_spec(tmp_path, **QUICK), uid="FIRST")
    await until(lambda: first.last("published"))
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    second = await control_plane.assign(mock_spec(tmp_path, **QUICK), uid="SECOND")
    failed = await until(lambda: second.last("failed"))
    assert failed.reason == "OUTPUT_EXISTS"
    assert "job-FIRST" in failed.message
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest
    spec = mock_spec(tmp_path, **QUICK)
    spec["artifacts"]["overwrite"] = True
    third = await control_plane.assign(spec, uid="THIRD")
    await until(lambda: third.last("published"))


async def test_a_job_survives_a_broker_that_is_killed_and_comes_back(
    control_plane: FakeControlPlane, agent: Agent, natsd: Natsd, tmp_path: Path
) -> None:
    agent.start()
    spec = mock_spec(tmp_path, steps=60, step_seconds=0.05, progress_every_step=True)
    job = await control_plane.assign(spec)
    await until(lambda: job.last("progressed"))
    natsd.restart()
    await until(lambda: job.last("published"))
    assert [r.progressed.step for r in job.reports if r.HasField("progressed")] == list(range(1, 61))


async def test_an_agent_started_before_its_broker_waits_for_it(natsd: Natsd, agent: Agent) -> None:
    natsd.stop()
    agent.start()
    await until(lambda: agent.events("control plane does not answer"))
    natsd.start()
    await until(lambda: agent.events("control plane answers") or "no responders" in agent.log.lower() or _alive(agent))
    assert agent.process is not None
    assert agent.process.poll() is None


def _alive(agent: Agent) -> bool:
    return agent.process is not None and agent.process.poll() is None


async def test_a_refused_permission_is_named_in_the_log(natsd: Natsd, agent: Agent) -> None:
    agent.credentials.write_text(natsd.node("another"))
    agent.start()
    await until(lambda: "permissions violation" in agent.log.lower())


@pytest.mark.parametrize(("model", "reason"), [("elsewhere", "STORAGE_DENIED"), ("roots/missing", "MODEL_NOT_FOUND")])
async def test_a_local_model_out_of_reach_fails_in_words_before_anything_is_started(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path, model: str, reason: str
) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "elsewhere").mkdir()
    agent.start("--model-root", str(tmp_path / "roots"))
    spec = mock_spec(tmp_path, **QUICK)
    spec["base_model"] = {"provider": "local", "model_name": str(tmp_path / model)}
    job = await control_plane.assign(spec)
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == reason
    assert str(tmp_path / model) in failed.message
    assert job.kinds() == ["failed"]


async def test_a_secret_reaches_no_file_no_environment_and_no_log(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start(AWS_SECRET_ACCESS_KEY="canary-of-the-environment")
    job = await control_plane.assign(
        mock_spec(tmp_path, **LONG), sealed={"base_model.auth_token": "canary-of-the-claim"}
    )
    await until(lambda: job.last("progressed"))
    await until(lambda: job.log)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "natsd" not in path.parts]
    assert files
    for path in files:
        assert b"canary" not in path.read_bytes(), path
    for pid in (agent.trainer_pid(job), os.getsid(agent.trainer_pid(job))):
        assert b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert alive(agent.trainer_pid(job))


async def test_a_trainer_sees_the_devices_it_was_given_and_little_else(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.flags = ()
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **LONG), devices=["1", "3"])
    await until(lambda: job.last("started"))
    raw = Path(f"/proc/{agent.trainer_pid(job)}/environ").read_text().split("\0")
    environment = dict(entry.split("=", 1) for entry in raw if entry)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert environment["TRAINPLANE_ATTEMPT"] == f"{job.key[0]}.1"
    assert environment["OMP_NUM_THREADS"] == "1"
    known = {"PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}
    assert {name for name in environment if not name.startswith(("PYTHON", "OMP", "CUDA", "TRAINPLANE"))} <= known


async def test_a_stand_in_node_gives_its_trainers_no_device(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    job = await control_plane.assign(mock_spec(tmp_path, **QUICK), devices=["0", "1"])
    await until(lambda: job.last("published"))
    assignment = json.loads((agent.directory(job) / "assignment.json").read_text())
    assert (assignment["devices"], assignment["world_size"]) == ([], 2)
    inventory = control_plane.syncs[-1].inventory
    assert inventory.simulated
    assert (len(inventory.gpus), inventory.cpus) == (2, 32)


async def test_a_log_uri_gets_the_whole_log_in_segments(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    spec = mock_spec(tmp_path, steps=60, step_seconds=0.05, log_lines=1500)
    spec["artifacts"]["log_uri"] = (tmp_path / "logs").as_uri()
    job = await control_plane.assign(spec)
    await until((tmp_path / "logs/attempt-1/rank-0/000001.log").exists)
    assert "finished" not in job.kinds()
    await until(lambda: job.last("published"))
    segments = sorted((tmp_path / "logs/attempt-1/rank-0").iterdir())
    assert len(segments) >= 2
    whole = (agent.directory(job) / "logs" / "rank-0.log").read_bytes()
    assert b"".join(path.read_bytes() for path in segments) == whole


async def test_an_idle_agent_is_small_and_has_imported_nothing_heavy(
    control_plane: FakeControlPlane, agent: Agent
) -> None:
    agent.start()
    await until(lambda: agent.events("agent ready"))
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    resident_kib = int(status.split("VmRSS:")[1].split()[0])
    assert resident_kib < 90 * 1024
    code = "import agent.__main__, agent.app, sys; print(*sorted(m for m in sys.modules if '.' not in m))"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    output, _ = await child.communicate()
    loaded = set(output.decode().split())
    assert {"nats", "structlog"} <= loaded
    assert not loaded & {"torch", "boto3", "grpc", "transformers", "numpy", "sqlalchemy"}
