"""An engine under test, and attempts of it that are started as the agent starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import psutil

from agent import processes
from agent.launch import Launcher
from agent.run import Assignment, AttemptKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

#: Of this process alone: an attempt's processes are found, and killed, by its key.
UID = f"01JCONFORMANCE{os.getpid()}"
ROWS = [{"prompt": f"What is {number}? ", "completion": f"It is {number}."} for number in range(24)]
START_SECONDS = 90.0
FOR_EVER = 1_000_000


@dataclass(frozen=True)
class Subject:
    """An engine, and what it is tested with.

    Attributes:
        name: the backend's.
        model: directory of a small base model that it can train.
        python: the interpreter of its own environment; empty: this one.
        changes: to the suite's spec, block by block: what it needs to be quick, and can do.
        for_ever: further changes, with which it would train for hours.
        trains: whether it reads model and rows; only a stand-in does not.
    """

    name: str
    model: Path
    python: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    for_ever: Mapping[str, Any] = field(default_factory=lambda: {"tuning_parameters": {"max_steps": FOR_EVER}})
    trains: bool = True

    def spec(self, rows: Path, *changes: Mapping[str, Any]) -> dict[str, Any]:
        """An effective spec: 12 steps of a LoRA on the CPU, a checkpoint after each, changed block by block."""
        spec: dict[str, Any] = {
            "job_id": "conformance",
            "backend": self.name,
            "base_model": {"provider": "local", "model_name": str(self.model)},
            "customization": {
                "method": "lora",
                "rank": 4,
                "lora_alpha": 8,
                "lora_dropout": 0.1,
                "target_modules": ["all-linear"],
                "precision": "fp32",
                "peft": {"use": True, "config": {"task_type": "CAUSAL_LM"}},
            },
            "resources": {"gpus": 0, "cpus": 1},
            "datasets": [{"source": rows.as_uri(), "split": "train"}],
            "tuning_parameters": {
                "learning_rate": 1e-2,
                "batch_size": 4,
                "num_epochs": 2,
                "warmup_ratio": 0,
                "seed": 7,
                "weight_decay": 0,
                "lr_scheduler": "linear",
                "optimizer": "adamw",
                "max_grad_norm": 1,
                "packing": False,
                "gradient_checkpointing": False,
                "max_sequence_length": 64,
                "checkpoint_steps": 1,
                "checkpoint_limit": 3,
            },
            "export": {"merged": False, "gguf": False},
        }
        for change in (self.changes, *changes):
            for block, value in change.items():
                spec[block] = {**spec.get(block, {}), **value} if isinstance(value, dict) else value
        return spec

    def run(self, place: Path, *changes: Mapping[str, Any], **how: Any) -> Run:
        """Start an attempt below that directory; `how` is Run.start's."""
        return Run.start(self, place, *changes, **how)


@dataclass
class Run:
    """One attempt that was started."""

    key: AttemptKey
    directory: Path
    process: subprocess.Popen[bytes]
    argv: tuple[str, ...]
    talked: set[str] = field(default_factory=set)
    """Addresses beyond this host that its processes were seen to talk to."""

    @classmethod
    def start(
        cls,
        subject: Subject,
        place: Path,
        *changes: Mapping[str, Any],
        number: int = 1,
        rows: list[Any] = ROWS,
        deadline_seconds: float | None = None,
        before: Callable[[Path], None] = lambda _directory: None,
    ) -> Run:
        """Start a trainer as the agent does, but for the shim.

        Args:
            subject: the engine.
            place: an own directory of the test's.
            changes: to the spec.
            number: of the attempt.
            rows: of the dataset; a string is a line as it is.
            deadline_seconds: of the attempt.
            before: called with the attempt's directory before the trainer is started.
        """
        directory, home = place / f"{UID}.{number}", place / "home"
        (directory / "logs").mkdir(parents=True, mode=0o700)
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        file = place / "rows.jsonl"
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        document = {
            "uid": UID,
            "job_id": "conformance",
            "project": "default",
            "attempt": number,
            "devices": [],
            "world_size": 1,
            "deadline_seconds": deadline_seconds,
            "spec": subject.spec(file, *changes),
        }
        (directory / "assignment.json").write_text(json.dumps(document))
        before(directory)
        interpreters = {subject.name: subject.python} if subject.python else {}
        launch = Launcher(interpreters=interpreters).prepare(Assignment.parse(json.dumps(document).encode()), directory)
        own = {"HOME": str(home), "TMPDIR": str(home / "tmp"), processes.MARKER: str(launch.key)}
        with (directory / "logs" / "rank-0.log").open("ab") as log:
            process = subprocess.Popen(
                launch.argv,
                cwd=directory,
                env={**launch.environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(launch.key, directory, process, launch.argv)

    @property
    def log(self) -> str:
        """What it wrote to stdout and stderr."""
        return (self.directory / "logs" / "rank-0.log").read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """Of its reports, the torn last one too."""
        path = self.directory / "reports.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def reports(self) -> list[dict[str, Any]]:
        """Every line, which must be JSON."""
        return [json.loads(line) for line in self.lines]

    def said(self, kind: str) -> list[dict[str, Any]]:
        """Its reports of a kind."""
        return [report for report in self.reports if report["kind"] == kind]

    @property
    def checkpoints(self) -> list[Path]:
        """Those that are there whole, oldest first."""
        return sorted(path.parent for path in self.directory.glob("checkpoints/[0-9]*/manifest.json"))

    @cached_property
    def result(self) -> dict[str, str]:
        """sha256 of each file of weights in `output/`, by name."""
        found = sorted((self.directory / "output").glob("*.safetensors"))
        return {path.name: sha256(path.read_bytes()).hexdigest() for path in found}

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until something is so while it runs.

        Raises:
            AssertionError: it ended before, or took too long.
        """
        end = time.monotonic() + START_SECONDS
        while not true():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.log[-3000:]}"
            assert time.monotonic() < end, f"not {what} within {START_SECONDS:.0f} s:\n{self.log[-3000:]}"
            time.sleep(0.02)

    def until_it_trains(self) -> None:
        """Wait for its first progress."""
        self.until(lambda: '"kind":"progress"' in "".join(self.lines).replace(": ", ":"), "its first progress")

    def end(self, seconds: float = START_SECONDS) -> int:
        """Wait for its end; the exit status. Looks at its connections meanwhile."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self._look()
            time.sleep(0.05)
        assert self.process.poll() is not None, f"it lived {seconds:.0f} s later:\n{self.log[-3000:]}"
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL to everything of the attempt; returns when nothing is left."""
        for process in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def left(self) -> list[int]:
        """Its processes that live, however far they went away."""
        return [member.pid for member in processes.members(self.key, None, frozenset()) if processes.lives(member)]

    def _look(self) -> None:
        for pid in self.left():
            with contextlib.suppress(psutil.Error):
                for each in psutil.Process(pid).net_connections("inet"):
                    if each.raddr and not each.raddr.ip.startswith(("127.", "::1")):
                        self.talked.add(f"{each.raddr.ip}:{each.raddr.port}")
