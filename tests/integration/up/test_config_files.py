"""Settings files that `trainplane up` passes on: wrong ones are refused in words before anything is started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.stack import ROOT, environment


def up(tmp_path, *arguments):
    """`trainplane up` in a data directory of its own, which must refuse."""
    ran = subprocess.run(
        [sys.executable, "-m", "trainplane.cli", "up", "--data-dir", str(tmp_path / "data"), *arguments],
        cwd=ROOT,
        env=environment() | {f"TRAINPLANE_{name}_PORT": "0" for name in ("HTTP", "GRPC", "NATS")},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "data" / "logs").exists(), "nothing was started"
    return ran


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("grpc_port = 1", "grpc_port: `trainplane up` decides this; use --grpc-port instead"),
        ("grpc_host = '0.0.0.0'", "grpc_host: `trainplane up` decides this"),
        ("database = 'sqlite:////tmp/x'", "database: `trainplane up` decides this; use --data-dir instead"),
        ("allowed_host = ['x']", "allowed_host: Extra inputs are not permitted"),
        ("allowed_networks = ['intranet']", "allowed_networks: "),
        ("ca_bundle = '/no/such.pem'", "ca_bundle: Value error, /no/such.pem cannot be read"),
        ("[connect_to]\n'events.internal' = '127.0.0.1:1'", "connect_to: Value error, must be host:port"),
        ("grpc_port = ", "is no TOML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_control_plane_s_file_that_cannot_be_used_ends_it_with_status_2(tmp_path, text, told):
    file = tmp_path / "controlplane.toml"
    if text is not None:
        file.write_text(text)
    ran = up(tmp_path, "--controlplane-config", str(file))
    assert ran.returncode == 2
    assert told in ran.stderr
    assert str(file) in ran.stderr


@pytest.mark.parametrize(
    ("text", "flags", "told"),
    [
        ("node = 'x'", (), "node: `trainplane up` decides this; use --node instead"),
        ("end_trainers_on_exit = false", (), "end_trainers_on_exit: `trainplane up` decides this"),
        ("gpus = '2xA100'", ("--gpus", "4xA100"), "gpus: `trainplane up` decides this; use --gpus instead"),
        ("memory_gb = 1", ("--memory-gb", "2"), "memory_gb: `trainplane up` decides this; use --memory-gb instead"),
        ("gpus = 'A100'", (), "gpus: Value error, must be a count and a type"),
        ("labbels = {}", (), "labbels: Extra inputs are not permitted"),
    ],
)
def test_an_agent_s_file_that_cannot_be_used_ends_it_with_status_2(tmp_path, text, flags, told):
    file = tmp_path / "agent.toml"
    file.write_text(text)
    ran = up(tmp_path, "--agent-config", str(file), *flags)
    assert ran.returncode == 2
    assert told in ran.stderr
    assert str(file) in ran.stderr
