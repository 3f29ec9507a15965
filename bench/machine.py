"""The machine and the programs of a run, and what single processes take of it."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import sysconfig
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from trainplane.up import nats

_SYNCS = 50
_TICKS = os.sysconf("SC_CLK_TCK")


def facts(command: str) -> list[tuple[str, str]]:
    """What RESULTS.md says about a run, load included: figures of a busy machine are worth less."""
    return [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("CPU", f"{_cpu_model()}, {os.cpu_count()} cores"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("load average at the start (1, 5, 15 min)", ", ".join(f"{load:.1f}" for load in os.getloadavg())),
        ("python", platform.python_version() + ("" if _is_optimized() else ", built without --enable-optimizations")),
        ("grpcio", version("grpcio")),
        ("SQLite", f"{sqlite3.sqlite_version}, WAL, synchronous=FULL"),
        ("nats-server", f"{_nats_version()}, JetStream, sync_interval always"),
        ("disk", f"fdatasync of 4 KiB takes {_sync_seconds() * 1e3:.2f} ms (median) where the databases lie"),
    ]


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its children have taken, their threads included."""
    return sum(_cpu_seconds(each) for each in (pid, *_children(pid)))


def resident_bytes(pid: int) -> int:
    """Memory that a process and its children hold; what they share counts for each."""
    return sum(_resident_bytes(each) for each in (pid, *_children(pid)))


def _children(pid: int) -> list[int]:
    found = []
    for threads in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in threads.read_text().split()]
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not say what process {pid} holds")


def _is_optimized() -> bool:
    """Whether the interpreter was built with profile-guided optimization: about a fifth of pure Python's speed."""
    return "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))


def _sync_seconds() -> float:
    with tempfile.TemporaryFile() as file:
        times = []
        for number in range(_SYNCS):
            os.pwrite(file.fileno(), bytes(4096), number * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _nats_version() -> str:
    said = subprocess.run([str(nats.binary()), "--version"], capture_output=True, text=True, check=True).stdout
    return said.strip().rpartition(" ")[2].removeprefix("v")
