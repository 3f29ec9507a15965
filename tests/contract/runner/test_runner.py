"""What every runner promises, over every runner; one more is one more line in RUNNERS."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent import cgroups, processes
from agent.launch import child_environment
from agent.run import AttemptKey
from agent.runners.local import LocalRunner
from agent.runners.protocol import Launch, LaunchError
from agent.runners.warm import WarmTrainers
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.runners.protocol import Runner


def grouped() -> cgroups.Cgroups:
    """The host's own control groups, with memory among them."""
    groups = cgroups.found()
    if "memory" not in groups.enforced:
        pytest.skip(f"this host enforces no bounds: {groups.shown()}")
    return groups


def in_v2() -> cgroups.Cgroups:
    """Groups in version 2's tree, which is there without controllers also where version 1 has them."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    trees = [Path(point) for _, point, kind, *_ in mounts if kind == "cgroup2"]
    if not trees or not os.access(trees[0], os.W_OK):
        pytest.skip("this host has no cgroup v2 tree that may be written")
    return cgroups.Cgroups((trees[0],))


GROUPS: dict[str, Callable[[], cgroups.Cgroups]] = {"": cgroups.Cgroups, " in groups": grouped, " in v2 groups": in_v2}
RUNNERS = [start + groups for start in ("spawned", "forked") for groups in GROUPS]
AT_ONCE = timedelta(0)
SHORT = timedelta(seconds=0.3)
PATIENT = timedelta(seconds=30)

SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(600)"
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open('asked', 'w').close(), sys.exit(143)))
open('ready', 'w').close()
time.sleep(600)
"""
#: Leaves a deaf grandchild in a session of its own, and one that has cleared its environment in the trainer's session.
LEAVES = """
import os, signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
own_session = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
unmarked = subprocess.Popen([sys.executable, "-c", deaf], env={})
with open("pids.tmp", "w") as file: file.write(f"{own_session.pid} {unmarked.pid}")
os.rename("pids.tmp", "ready")
"""


@pytest.fixture(params=RUNNERS)
async def runner(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runner]:
    start, _, groups = str(request.param).partition(" ")
    made = GROUPS[f" {groups}" if groups else ""]()
    if start == "spawned":
        yield LocalRunner(made, directory_of=lambda key: tmp_path / str(key))
        return
    (tmp_path / "home").mkdir()
    warm = WarmTrainers(tmp_path / "home", child_environment(), [])
    serving = asyncio.create_task(warm.run())
    await eventually(lambda: warm.server)
    yield LocalRunner(made, directory_of=lambda key: tmp_path / str(key), warm=warm)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    key = AttemptKey(f"JOB-{secrets.token_hex(5)}", 1)
    (tmp_path / str(key) / "logs").mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"]}
    return Launch(key, (sys.executable, "-c", SLEEP), tmp_path / str(key), environment, warm=True)


def running(launch: Launch, code: str) -> Launch:
    return replace(launch, argv=(sys.executable, "-c", code))


async def ready(launch: Launch) -> str:
    await eventually((launch.directory / "ready").exists)
    return (launch.directory / "ready").read_text()


def alive(pid: int) -> bool:
    found = processes.stat(pid)
    return found is not None and not found.dead


async def test_a_trainer_runs_in_its_directory_with_its_marker_and_logs_there(runner: Runner, launch: Launch) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['TRAINPLANE_ATTEMPT'], flush=True); print('oops', file=sys.stderr)"
    process = runner.start(running(launch, code))
    await runner.gone(launch.key, process)
    log = (launch.directory / "logs" / "rank-0.log").read_text()
    assert log == f"{launch.directory} {launch.key}\noops\n"
    await runner.stop(launch.key, process, AT_ONCE)


@pytest.mark.parametrize(
    ("code", "status"), [("pass", "0"), ("raise SystemExit(7)", "7"), ("import os; os.kill(os.getpid(), 9)", "137")]
)
async def test_the_exit_status_is_written_down(runner: Runner, launch: Launch, code: str, status: str) -> None:
    process = runner.start(running(launch, code))
    await runner.gone(launch.key, process)
    assert (launch.directory / "exit").read_text() == f"{status}\n"
    await runner.stop(launch.key, process, AT_ONCE)
    assert not runner.alive(process)


async def test_a_trainer_gets_nothing_of_the_runners_own_environment(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, "import os; print(sorted(os.environ))"))
    await runner.gone(launch.key, process)
    names = (launch.directory / "logs" / "rank-0.log").read_text()
    assert set(eval(names)) <= {"PATH", "TRAINPLANE_ATTEMPT", "PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
    await runner.stop(launch.key, process, AT_ONCE)


async def test_a_trainer_that_listens_ends_by_itself(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, POLITE))
    await ready(launch)
    await runner.stop(launch.key, process, PATIENT)
    assert (launch.directory / "asked").exists()
    assert (launch.directory / "exit").read_text() == "143\n"
    assert not runner.alive(process)


async def test_a_deaf_trainer_is_killed_after_the_grace(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, DEAF))
    await ready(launch)
    began = asyncio.get_running_loop().time()
    await runner.stop(launch.key, process, SHORT)
    assert asyncio.get_running_loop().time() - began >= SHORT.total_seconds()
    assert not runner.alive(process)
    assert runner.find(launch.key) is None


async def test_stopping_leaves_neither_a_session_of_its_own_nor_a_cleared_environment(
    runner: Runner, launch: Launch
) -> None:
    process = runner.start(running(launch, LEAVES + "time.sleep(600)"))
    left = [int(pid) for pid in (await ready(launch)).split()]
    assert all(map(alive, left))
    await runner.stop(launch.key, process, SHORT)
    assert not any(map(alive, left))


async def test_sweeping_after_the_trainer_ended_leaves_nothing_either(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, LEAVES))
    left = [int(pid) for pid in (await ready(launch)).split()]
    await runner.gone(launch.key, process)
    assert all(map(alive, left))
    await runner.stop(launch.key, process, AT_ONCE)
    assert not any(map(alive, left))


async def test_stopping_twice_and_stopping_what_never_was_are_harmless(runner: Runner, launch: Launch) -> None:
    process = runner.start(launch)
    await runner.stop(launch.key, process, AT_ONCE)
    await runner.stop(launch.key, process, AT_ONCE)
    await runner.stop(AttemptKey("NEVER-WAS", 1), None, PATIENT)


async def test_another_attempts_trainer_is_left_alone(runner: Runner, launch: Launch, tmp_path: Path) -> None:
    number_11 = replace(launch.key, number=11)
    other = replace(launch, key=number_11, directory=tmp_path / str(number_11))
    (other.directory / "logs").mkdir(parents=True)
    first, second = runner.start(launch), runner.start(other)
    await runner.stop(launch.key, first, AT_ONCE)
    assert runner.alive(second)
    await runner.stop(other.key, second, AT_ONCE)


async def test_a_trainer_whose_start_was_not_noted_is_found(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, DEAF))
    await ready(launch)
    assert runner.find(launch.key) == process
    await runner.stop(launch.key, process, AT_ONCE)


async def test_a_later_process_of_the_same_number_is_not_taken_for_the_trainer(runner: Runner, launch: Launch) -> None:
    process = runner.start(launch)
    for stranger in (replace(process, start_ticks=process.start_ticks + 1), replace(process, boot_id="before")):
        assert not runner.alive(stranger)
        await runner.gone(AttemptKey("STRANGER", 1), stranger)
        await runner.stop(AttemptKey("STRANGER", 1), stranger, AT_ONCE)
    assert runner.alive(process)
    await runner.stop(launch.key, process, AT_ONCE)


async def test_waiting_for_the_end_can_be_given_up(runner: Runner, launch: Launch) -> None:
    process = runner.start(launch)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runner.gone(launch.key, process), 0.05)
    assert runner.alive(process)
    await runner.stop(launch.key, process, AT_ONCE)


async def test_a_trainer_does_not_inherit_a_blocked_or_ignored_signal(runner: Runner, launch: Launch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = runner.start(running(launch, "import signal; print(signal.getsignal(2) is not signal.SIG_IGN)"))
    finally:
        signal.signal(signal.SIGINT, before)
    await runner.gone(launch.key, process)
    assert (launch.directory / "logs" / "rank-0.log").read_text() == "True\n"
    await runner.stop(launch.key, process, AT_ONCE)


async def test_a_program_that_is_not_there_is_told_by_its_status(runner: Runner, launch: Launch) -> None:
    process = runner.start(replace(launch, argv=("/no/such/program",)))
    await runner.gone(launch.key, process)
    assert (launch.directory / "exit").read_text() == "127\n"
    await runner.stop(launch.key, process, AT_ONCE)


async def test_what_cannot_be_started_at_all_is_an_error_in_words(runner: Runner, launch: Launch) -> None:
    with pytest.raises(LaunchError, match="could not be started"):
        runner.start(replace(launch, argv=("a\0b",)))


async def test_no_zombie_is_left(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, LEAVES))
    await runner.gone(launch.key, process)
    await runner.stop(launch.key, process, AT_ONCE)
    zombies = [
        found
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        and (found := processes.stat(int(entry.name)))
        and found.dead
        and found.parent == os.getpid()
    ]
    assert [zombie for zombie in zombies if zombie.session == process.pid] == []


#: Five processes that share a log, each with a hundred frames of one name.
DEEP = """
import faulthandler, os, signal, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
for _ in range(4):
    if not os.fork():
        break
def far_down(depth):
    if depth:
        far_down(depth - 1)
    with open(f"deep-{os.getpid()}", "w"):
        pass
    time.sleep(600)
far_down(99)
"""


async def test_stacks_of_processes_that_share_a_log_are_not_mixed(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, DEEP))
    await eventually(lambda: len(list(launch.directory.glob("deep-*"))) == 5)
    await runner.show_stacks(launch.key, process)
    lines = (launch.directory / "logs" / "rank-0.log").read_text().splitlines()
    frames = [re.fullmatch(r'  File "[^"]+", line \d+ in far_down', line) is not None for line in lines]
    assert [sum(frames), sum("(most recent call first):" in line for line in lines)] == [500, 5]
    await runner.stop(launch.key, process, AT_ONCE)


#: Four that wait for a fifth, which was stopped.
HELD_UP = """
import faulthandler, os, signal, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
reading, writing = os.pipe()
def waits():
    open(f"held-up-{os.getpid()}", "w").close()
    os.read(reading, 1)
for _ in range(4):
    if not os.fork():
        os.close(writing)
        waits()
        time.sleep(600)
open(f"held-up-{os.getpid()}", "w").close()
os.kill(os.getpid(), signal.SIGSTOP)
os.close(writing)
time.sleep(600)
"""


async def test_who_waits_for_a_stopped_process_says_where_before_that_goes_on(runner: Runner, launch: Launch) -> None:
    process = runner.start(running(launch, HELD_UP))
    await eventually(lambda: len(list(launch.directory.glob("held-up-*"))) == 5)
    held_up = [int(path.name.rpartition("-")[2]) for path in launch.directory.glob("held-up-*")]
    await eventually(lambda: [stat.state for pid in held_up if (stat := processes.stat(pid))].count("T") == 1)
    await runner.show_stacks(launch.key, process)
    log = (launch.directory / "logs" / "rank-0.log").read_text()
    assert [log.count(" in waits"), log.count("(most recent call first):")] == [4, 5]
    await runner.stop(launch.key, process, AT_ONCE)
