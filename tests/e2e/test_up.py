"""`trainplane up` with its real children, as a user starts it."""

from __future__ import annotations

import json
import subprocess

import psutil

from tests.support.eventually import eventually
from tests.support.stack import environment, mock_spec
from tests.support.up import COMMAND, Up

#: Of a user's shell: they reach storage and hubs. The agent's children for these need them, and nobody else.
CREDENTIALS = {"AWS_SECRET_ACCESS_KEY": "aws-canary", "HF_TOKEN": "hub-canary"}


async def test_it_serves_on_free_ports_runs_a_job_and_leaves_no_process_behind(tmp_path):
    up = Up(tmp_path / "data", flags=("--dev",))
    try:
        up.start()
        children = up.processes()[1:]
        assert len(children) >= 4
        spec = tmp_path / "mock.json"
        spec.write_text(json.dumps(mock_spec("up", tmp_path / "out", steps=3)))
        ran = subprocess.run(
            [*COMMAND, "submit", "--watch", str(spec)],
            env=environment() | {"TRAINPLANE_ADDRESS": up.record["grpc"]},
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    finally:
        status = up.end()
    assert status == 0, up.said
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


async def test_settings_files_are_heeded_and_credentials_of_the_shell_reach_the_agent_and_no_trainer(tmp_path):
    (tmp_path / "cp.toml").write_text(f'default_output_uri = "file://{tmp_path}/elsewhere"')
    (tmp_path / "agent.toml").write_text('gpus = "4xA100"\nlabels = {rack = "7"}')
    files = ("--controlplane-config", str(tmp_path / "cp.toml"), "--agent-config", str(tmp_path / "agent.toml"))
    up = Up(tmp_path / "data", flags=("--dev", *files, "--cpus", "16", "--memory-gb", "128"), environment=CREDENTIALS)
    try:
        up.start()
        (node,) = up.http("GET", "/nodes")[1]["nodes"]
        assert [gpu["type"] for gpu in node["gpus"]] == ["NVIDIA A100-SXM4-80GB"] * 4
        assert (node["cpus"], node["memory_gb"], node["simulated"]) == (16, 128, True)
        assert node["labels"] == {"rack": "7"}
        spec = mock_spec("held", tmp_path, hang_at_step=1)
        spec |= {"resources": {"gpus": 4, "gpu_type": "A100", "cpus": 16, "memory_gb": 128}, "artifacts": {}}
        status, job = up.http("POST", "/train", json.dumps(spec).encode())
        assert (status, job.get("output_uri")) == (200, f"file://{tmp_path}/elsewhere/held/")
        await eventually(lambda: up.http("GET", "/train/held")[1]["state"] == "RUNNING")
        assert any("agent.trainer" in " ".join(process.cmdline()) for process in up.processes())
        agent_and_up = {"trainplane-agent", "trainplane.cli up"}
        for canary in CREDENTIALS.values():
            holders = up.holders(canary)
            assert len(holders) == 2
            assert all(any(name in command for name in agent_and_up) for command in holders)
    finally:
        up.end()
