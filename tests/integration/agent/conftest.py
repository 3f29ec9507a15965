"""A real agent process against a real nats-server, with a control plane in memory that answers it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.fake_control_plane import FakeControlPlane, Job
from tests.support.groups import remove_groups
from tests.support.natsd import Natsd, natsd
from tests.support.whole_lines import whole_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["natsd"]

ROOT = Path(__file__).parents[3]
NODE = "gpu-01"


@dataclass
class Agent:
    """An agent's process, its data directory and its log."""

    data_dir: Path
    url: str
    credentials: Path
    flags: tuple[str, ...] = ("--gpus", "2xA100")
    process: subprocess.Popen[bytes] | None = None
    log_path: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log_path = self.data_dir.with_suffix(".log")

    def start(self, *flags: str, failpoint: str = "", **environment: str) -> None:
        argv = [sys.executable, "-m", "agent", "--nats", self.url, "--node", NODE]
        argv += ["--credentials", str(self.credentials), "--data-dir", str(self.data_dir)]
        inherited = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONWARNINGS": "error"}
        if failpoint:
            environment["TRAINPLANE_FAILPOINT"] = failpoint
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, *self.flags, *flags], cwd=ROOT, env={**inherited, **environment}, stderr=log, stdout=log
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in whole_lines(self.log_path) if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)

    async def ended(self) -> int:
        assert self.process is not None
        return await eventually(lambda: _status(self.process), deadline_seconds=60)

    async def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    def directory(self, job: Job) -> Path:
        return self.data_dir / "attempts" / f"{job.assignment['uid']}.{job.assignment['attempt']}"

    def trainer_pid(self, job: Job) -> int:
        """Of the trainer itself, as it said in its first line."""
        first = (self.directory(job) / "reports.jsonl").read_text().splitlines()[0]
        return int(json.loads(first)["pid"])


def _status(process: subprocess.Popen[bytes] | None) -> Any:
    code = None if process is None else process.poll()
    return None if code is None else _Truthy(code)


class _Truthy(int):
    """An exit status that `eventually` takes for an answer even if it is 0."""

    def __bool__(self) -> bool:
        return True


@pytest.fixture
async def control_plane(natsd: Natsd) -> AsyncIterator[FakeControlPlane]:
    client = await natsd.connect(natsd.control_plane(), allow_reconnect=True, max_reconnect_attempts=-1)
    fake = FakeControlPlane(NODE, client)
    await fake.serve()
    yield fake
    await client.close()
    assert fake.complaints == []


@pytest.fixture
def agent(natsd: Natsd, tmp_path: Path) -> Any:
    credentials = tmp_path / "node.creds"
    credentials.write_text(natsd.node(NODE))
    made = Agent(tmp_path / "agent", natsd.url, credentials)
    yield made
    made.kill()
    print(made.log)  # noqa: T201  # pytest shows it where the test failed
    _end_trainers(made.data_dir)


def _end_trainers(data_dir: Path) -> None:
    """Whatever a failed test left behind: processes whose working directory or argument lies in the data directory."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if str(data_dir) in (entry / "cmdline").read_bytes().decode(errors="replace"):
                os.kill(int(entry.name), signal.SIGKILL)
    remove_groups(data_dir)


def mock_spec(tmp_path: Path, **knobs: Any) -> dict[str, Any]:
    """A spec for the fake trainer."""
    return {
        "backend": "mock",
        "backend_options": knobs,
        "artifacts": {"output_uri": (tmp_path / "out").as_uri()},
        "resources": {"cpus": 1},
    }


async def until(probe: Any) -> Any:
    """`eventually`, with a deadline for a machine that does other things too."""
    return await eventually(probe, deadline_seconds=60)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"
