"""What an attempt may use of the host, seen to by real control groups: memory, CPU, and who belongs to it."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from agent import cgroups, processes
from agent.cgroups import Bounds, Group
from agent.run import AttemptKey
from agent.runners.local import LocalRunner
from agent.runners.protocol import Launch, LaunchError
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT_ONCE = timedelta(0)
MIB = 1 << 20
EATS = "held = [b'x' * (1 << 20) for _ in range(300)]; import time; time.sleep(600)"
#: Neither its session nor its environment tells whose it is.
ESCAPES = """
import os, subprocess, sys
code = sys.argv[1] if len(sys.argv) > 1 else "import time; time.sleep(600)"
if os.fork() == 0:
    os.setsid()
    child = subprocess.Popen([sys.executable, "-c", code], env={}, start_new_session=True)
    with open("pid.tmp", "w") as file: file.write(str(child.pid))
    os.rename("pid.tmp", "pid")
    os._exit(0)
import time; time.sleep(600)
"""


@pytest.fixture
def groups() -> cgroups.Cgroups:
    found = cgroups.found()
    if found.enforced != {"memory", "cpu"}:
        pytest.skip(f"this host enforces no bounds: {found.shown()}")
    return found


@pytest.fixture
def runner(groups: cgroups.Cgroups, tmp_path: Path) -> LocalRunner:
    return LocalRunner(groups, directory_of=lambda key: tmp_path / str(key))


@pytest.fixture
def launch(groups: cgroups.Cgroups, tmp_path: Path) -> Iterator[Launch]:
    key = AttemptKey(f"JOB-{secrets.token_hex(5)}", 1)
    directory = tmp_path / str(key)
    (directory / "logs").mkdir(parents=True)
    yield Launch(key, (sys.executable, "-c", EATS), directory, {"PATH": os.environ["PATH"]}, Bounds(64 * MIB, cpus=1))
    left = [path for base in groups.bases for path in base.glob(f"trainplane-{key}")]
    assert left == [], "every test ends by stopping, and that removes the group"


async def test_a_trainer_that_takes_more_memory_than_its_bound_is_ended_and_that_is_known_afterwards(
    runner: LocalRunner, launch: Launch, tmp_path: Path
) -> None:
    process = runner.start(launch)
    await asyncio.wait_for(runner.gone(launch.key, process), 30)
    await runner.stop(launch.key, process, AT_ONCE)
    for asked in (runner, LocalRunner(directory_of=lambda key: tmp_path / str(key))):
        used = asked.memory(launch.key)
        assert used is not None
        assert (used.limit_bytes, used.kills) == (64 * MIB, 1)
        assert 32 * MIB < used.peak_bytes <= 64 * MIB


async def test_the_whole_attempt_ends_when_a_grandchild_of_its_own_session_takes_too_much(
    runner: LocalRunner, launch: Launch
) -> None:
    process = runner.start(_running(launch, ESCAPES, EATS))
    grandchild = await _noted_pid(launch)
    await asyncio.wait_for(runner.gone(launch.key, process), 30)
    await runner.stop(launch.key, process, AT_ONCE)
    used = runner.memory(launch.key)
    assert used is not None
    assert used.kills >= 1
    assert not _alive(grandchild)


async def test_stopping_ends_a_grandchild_that_left_the_session_and_its_environment(
    runner: LocalRunner, launch: Launch, tmp_path: Path
) -> None:
    process = runner.start(_running(launch, ESCAPES))
    grandchild = await _noted_pid(launch)
    assert not processes.marked(grandchild, launch.key)
    next_one = LocalRunner(directory_of=lambda key: tmp_path / str(key))  # a restarted agent, in whatever group
    await next_one.stop(launch.key, process, AT_ONCE)
    assert not _alive(grandchild)


async def test_a_trainer_gets_no_more_of_the_processors_than_it_asked_for(runner: LocalRunner, launch: Launch) -> None:
    process = runner.start(_running(launch, "while True: pass"))
    (tree,) = [path for path in Group.noted(launch.directory).paths if (path / "cpu.stat").exists()]

    def periods() -> int:
        """Counted only while a quota is in force; whether it bites depends on what else this machine does."""
        return int(dict(line.split() for line in (tree / "cpu.stat").read_text().splitlines())["nr_periods"])

    await eventually(periods)
    quota, period = (int((tree / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    assert quota == period  # one CPU's worth
    await runner.stop(launch.key, process, AT_ONCE)


async def test_groups_that_a_trainer_made_inside_its_own_go_with_it(runner: LocalRunner, launch: Launch) -> None:
    process = runner.start(_running(launch, "import time; time.sleep(600)"))
    inner = Group.noted(launch.directory).paths[0] / "inner"
    inner.mkdir()
    await eventually(lambda: runner.find(launch.key))
    (inner / "cgroup.procs").write_text(str(process.pid))
    await runner.stop(launch.key, process, AT_ONCE)
    assert not inner.exists()


async def test_a_group_that_the_kernel_refuses_starts_nothing(runner: LocalRunner, launch: Launch) -> None:
    with pytest.raises(LaunchError, match="control group could not be made"):
        runner.start(replace(launch, bounds=Bounds(cpus=1 << 60)))
    assert runner.find(launch.key) is None


def _running(launch: Launch, *arguments: str) -> Launch:
    return replace(launch, argv=(sys.executable, "-c", *arguments))


async def _noted_pid(launch: Launch) -> int:
    await eventually((launch.directory / "pid").exists)
    return int((launch.directory / "pid").read_text())


def _alive(pid: int) -> bool:
    found = processes.stat(pid)
    return found is not None and not found.dead
