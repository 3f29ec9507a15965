"""The whole product on one machine, each part a process of its own: NATS, control plane, agents, Envoy.

Synchronous, so that a fixture of any scope may own it. Parts are killed and started again by name; data directories and
ports stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.support.groups import remove_groups
from tests.support.natsd import Natsd
from trainplane.v1 import job_service_pb2_grpc, node_service_pb2_grpc

ROOT = Path(__file__).parents[2]
SEED = (ROOT / "examples" / "seed-train-request.json").read_bytes()


def environment() -> dict[str, str]:
    """This process' environment without settings of trainplane."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRAINPLANE_")}


@dataclass
class Part:
    """One process of the stack, with its log."""

    argv: list[str]
    log: Path
    environment: dict[str, str]
    ready: str
    """How the line on its stdout, or in its log, begins or contains, that says that it serves."""
    process: subprocess.Popen[bytes] | None = None
    line: str = ""

    def start(self, deadline_seconds: float = 90.0) -> None:
        """Returns when it said that it serves."""
        out = self.log.with_suffix(".out")
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as stderr, out.open("wb") as stdout:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=ROOT,
                env=environment() | self.environment,
            )
        end = time.monotonic() + deadline_seconds
        while time.monotonic() < end:
            told = out.read_text()
            # A line that is not whole yet would run into the log's first.
            said = told[: told.rfind("\n") + 1] + self.log.read_text()[start:]
            for line in said.splitlines(keepends=True):
                if self.ready in line and line.endswith("\n"):  # a part of a line may be there
                    self.line = line.rstrip()
                    return
            assert self.process.poll() is None, f"{self.argv} ended with {self.process.returncode}:\n{said[-4000:]}"
            time.sleep(0.01)
        raise AssertionError(f"{self.argv} not ready within {deadline_seconds} s:\n{said[-4000:]}")

    def kill(self) -> None:
        """SIGKILL, as a crash is."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it and answers its exit status."""
        if self.process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
        status = self.process.wait(timeout=90)
        self.process = None
        return status


@dataclass
class Stack:
    """All parts; see `start`."""

    directory: Path
    flags: tuple[str, ...] = ("--dev", "--allow-loopback")
    """Further flags of the control plane."""
    natsd: Natsd = field(init=False)
    controlplane: Part = field(init=False)
    gateway: Part | None = None
    agents: dict[str, Part] = field(default_factory=dict)
    grpc_port: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    """Further settings of the control plane."""

    def start(self, *, gateway: bool = True) -> None:
        """Starts NATS, the control plane and, unless told not to, Envoy; agents join by `join`."""
        (self.directory / "natsd").mkdir(parents=True)
        self.natsd = Natsd(self.directory / "natsd")
        self.natsd.start()
        self.start_controlplane()
        if gateway:
            data_dir = self.directory / "gateway"
            data_dir.mkdir()
            argv = [sys.executable, "-m", "gateway", "--http-port", "0", "--upstream", self.address]
            self.gateway = Part(
                [*argv, "--data-dir", str(data_dir)], self.directory / "gateway.log", {}, "gateway http="
            )
            self.gateway.start()
            self._await_gateway()

    def _await_gateway(self) -> None:
        """The launcher says where it will listen, and then becomes Envoy: only an answer proves that it does."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.http("GET", "/train?page_size=1")[0] == 200:
                    return
            time.sleep(0.02)
        raise AssertionError("the gateway does not answer")

    def start_controlplane(self) -> None:
        """Starts it, or starts it again on the same port."""
        credentials = self._secret("controlplane.creds", self.natsd.control_plane())
        argv = [sys.executable, "-m", "controlplane", "--grpc-port", str(self.grpc_port), "--nats", self.natsd.url]
        argv += ["--nats-credentials", str(credentials), "--data-dir", str(self.directory / "controlplane")]
        self.controlplane = Part(
            [*argv, *self.flags],
            self.directory / "controlplane.log",
            self.environment,
            "ready grpc=",
        )
        self.controlplane.start()
        self.grpc_port = int(self.controlplane.line.rsplit(":", 1)[1])

    def join(self, name: str, *flags: str, **environment: str) -> Part:
        """Starts an agent, for the first time or again; returns when it has synced."""
        credentials = self._secret(f"{name}.creds", self.natsd.node(name))
        argv = [
            sys.executable,
            "-m",
            "agent",
            "--nats",
            self.natsd.url,
            "--node",
            name,
            "--credentials",
            str(credentials),
        ]
        argv += ["--data-dir", str(self.directory / name), *flags]
        part = self.agents[name] = Part(argv, self.directory / f"{name}.log", environment, "agent ready")
        part.start()
        return part

    def stop(self) -> None:
        """Ends everything, trainers included."""
        for name, agent in self.agents.items():
            agent.end()
            self._end_trainers(self.directory / name)
        for part in (self.gateway, self.controlplane):
            if part is not None:
                part.end()
        self.natsd.kill()

    def _end_trainers(self, data_dir: Path) -> None:
        """What agents leave by design, trainers that live and their control groups, must not outlive a test."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                cwd = path.with_name("cwd").readlink()
                if b"TRAINPLANE_ATTEMPT=" in path.read_bytes() and cwd.is_relative_to(data_dir):
                    os.kill(int(path.parent.name), signal.SIGKILL)
        remove_groups(data_dir)

    def _secret(self, name: str, text: str) -> Path:
        path = self.directory / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(text)
        return path

    @property
    def address(self) -> str:
        """The control plane's gRPC address."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        """The gateway's URL."""
        assert self.gateway is not None
        return "http://" + self.gateway.line.split("gateway http=")[1].split()[0]

    def http(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """One HTTP request through Envoy: the status, and the JSON."""
        if body is not None:
            headers.setdefault("content-type", "application/json")
        request = urllib.request.Request(
            self.url + path, data=body, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@contextlib.asynccontextmanager
async def stubs(address: str):
    """(JobService, NodeService) on a channel of their own."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel), node_service_pb2_grpc.NodeServiceStub(channel)


def mock_spec(job_id: str, output: Path, **options: Any) -> dict[str, Any]:
    """A request for the fake trainer; options are its knobs."""
    return {
        "job_id": job_id,
        "backend": "mock",
        "backend_options": options,
        "base_model": {"provider": "local", "model_name": str(ROOT / "examples" / "demo")},
        "customization": {"method": "lora"},
        "datasets": [{"source": f"file://{ROOT}/examples/demo/train.jsonl"}],
        "artifacts": {"output_uri": f"file://{output}/"},
    }
