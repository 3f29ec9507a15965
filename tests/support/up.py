"""`trainplane up` as a user starts it: a real process with its real children, on free ports, in a data directory."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from tests.support.stack import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMAND = (sys.executable, "-m", "trainplane.cli")
_START_SECONDS = 90.0
_END_SECONDS = 60.0


@dataclass
class Up:
    """One `up`. `start` and `end` may be called once each.

    Attributes:
        data_dir: its data directory.
        flags: further ones.
        environment: what the user's shell has beside ours.
    """

    data_dir: Path
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    said: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it is ready."""
        ports = {f"TRAINPLANE_{name}_PORT": "0" for name in ("HTTP", "GRPC", "NATS")}
        self._process = subprocess.Popen(
            [*COMMAND, "up", "--data-dir", str(self.data_dir), *self.flags],
            cwd=ROOT,
            env=environment() | ports | dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        end, ready = time.monotonic() + _START_SECONDS, self.data_dir / "up.json"
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                self.end()
                raise AssertionError(f"`trainplane up` is not ready:\n{self.said}")
            time.sleep(0.05)
        self.record = json.loads(ready.read_text())

    @property
    def pid(self) -> int:
        """The process of `up` itself."""
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """`up` and all below it that live now, trainers included."""
        with contextlib.suppress(psutil.NoSuchProcess):
            up = psutil.Process(self.pid)
            return [up, *up.children(recursive=True)]
        return []

    def holders(self, value: str) -> list[str]:
        """The command lines of its processes that have a variable of this value in their environment."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if value in process.environ().values():
                    found.append(" ".join(process.cmdline()))
        return found

    def http(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """One HTTP request through Envoy: the status, and the JSON."""
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.record["http"] + path, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def end(self) -> int:
        """Ctrl-C; the exit status. Killed, it could not end its children, so it is given its time."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        if not self.said:
            self.said, _ = self._process.communicate(timeout=_END_SECONDS)
        return self._process.returncode
