"""`trainplane up` with its real children, as a user starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import psutil

from tests.support.eventually import eventually
from tests.support.stack import ROOT, environment, mock_spec


async def test_it_serves_on_free_ports_runs_a_job_and_leaves_no_process_behind(tmp_path):
    data = tmp_path / "data"
    ports = {f"TRAINPLANE_{name}_PORT": "0" for name in ("HTTP", "GRPC", "NATS")}
    command = [sys.executable, "-m", "trainplane.cli"]
    up = subprocess.Popen(
        [*command, "up", "--dev", "--data-dir", str(data)], cwd=ROOT, env=environment() | ports,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        await eventually(lambda: (data / "up.json").exists() or up.poll() is not None, deadline_seconds=60)
        assert up.poll() is None, up.stdout.read()
        record = json.loads((data / "up.json").read_text())
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) >= 4
        client = environment() | {"TRAINPLANE_ADDRESS": record["grpc"]}
        spec = tmp_path / "mock.json"
        spec.write_text(json.dumps(mock_spec("up", tmp_path / "out", steps=3)))
        ran = subprocess.run(
            [*command, "submit", "--watch", str(spec)],
            env=client,
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        up.send_signal(signal.SIGINT)
        said, _ = up.communicate(timeout=40)
        assert up.returncode == 0, said
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        if up.poll() is None:
            up.send_signal(signal.SIGINT)  # killed, it could not end its children
            up.communicate(timeout=60)
