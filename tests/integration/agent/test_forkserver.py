"""The fork server and its keeper: what a forked trainer is, and what becomes of trainers when the server is not well."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent import processes
from agent.launch import child_environment
from agent.run import AttemptKey
from agent.runners import forkserver
from agent.runners.local import LocalRunner
from agent.runners.protocol import Launch
from agent.runners.warm import WarmTrainers
from tests.support.eventually import eventually
from tests.support.freezing import freeze

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PRELOADED_SECONDS = 160.0
"""It imports torch and PEFT on a machine that runs other tests too."""
AT_ONCE = timedelta(0)
SLEEP = "import time; open('ready', 'w').close(); time.sleep(600)"


@asynccontextmanager
async def serving(home: Path, *modules: str, **options: Any) -> AsyncIterator[WarmTrainers]:
    warm = WarmTrainers(home, child_environment(), modules, **options)
    task = asyncio.create_task(warm.run())
    try:
        yield warm
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def launch_of(tmp_path: Path, code: str, **environment: str) -> Launch:
    key = AttemptKey(f"JOB-{secrets.token_hex(5)}", 1)
    (tmp_path / str(key) / "logs").mkdir(parents=True)
    environment = {**child_environment(), **environment}
    return Launch(key, (sys.executable, "-c", code), tmp_path / str(key), environment, warm=True)


async def said_by(runner: LocalRunner, launch: Launch) -> Any:
    """Run it to its end; what it printed, as JSON."""
    process = runner.start(launch)
    await runner.gone(launch.key, process)
    log = (launch.directory / "logs" / "rank-0.log").read_text()
    assert (launch.directory / "exit").read_text() == "0\n", log
    await runner.stop(launch.key, process, AT_ONCE)
    return json.loads(log)


IMPORTED = "import json, sys; print(json.dumps('tests.support.clock' in sys.modules))"


async def test_a_trainer_is_forked_with_what_the_server_has_imported(tmp_path: Path) -> None:
    async with serving(tmp_path, "tests.support.clock") as warm:
        await eventually(lambda: warm.server)
        assert await said_by(LocalRunner(warm=warm), launch_of(tmp_path, IMPORTED)) is True
        assert await said_by(LocalRunner(), launch_of(tmp_path, IMPORTED)) is False


async def test_a_forked_trainer_looks_like_a_spawned_one_to_whoever_reads_proc(tmp_path: Path) -> None:
    async with serving(tmp_path) as warm:
        await eventually(lambda: warm.server)
        runner = LocalRunner(warm=warm)
        launch = launch_of(tmp_path, SLEEP)
        process = runner.start(launch)
        await eventually((launch.directory / "ready").exists)
        members = processes.members(launch.key, process, frozenset())
        (trainer,) = [found for member in members if (found := processes.stat(member.pid)) and found.pid != process.pid]
        shim = processes.stat(process.pid)
        assert shim is not None
        assert (shim.parent, shim.session, trainer.parent, trainer.session) == (os.getpid(), *[process.pid] * 3)
        assert processes.marked(trainer.pid, launch.key)
        assert processes.marked(shim.pid, launch.key)
        shown = Path(f"/proc/{trainer.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        assert shown == [argument.encode() for argument in launch.argv]
        descriptors = Path(f"/proc/{trainer.pid}/fd")
        log = str(launch.directory / "logs" / "rank-0.log")
        assert [str((descriptors / number).readlink()) for number in "012"] == [os.devnull, log, log]
        assert not [path for path in descriptors.iterdir() if str(path.readlink()).startswith("socket:")]
        await runner.stop(launch.key, process, AT_ONCE)


async def test_a_shim_does_not_hold_the_servers_memory(tmp_path: Path) -> None:
    async with serving(tmp_path, "sqlite3") as warm:
        await eventually(lambda: warm.server)
        runner = LocalRunner(warm=warm)
        launch = launch_of(tmp_path, SLEEP)
        process = runner.start(launch)
        maps = Path(f"/proc/{process.pid}/maps")
        await eventually(lambda: "sqlite3" not in maps.read_text())
        await runner.stop(launch.key, process, AT_ONCE)


async def test_after_the_server_has_died_trainers_are_spawned_until_there_is_another(tmp_path: Path) -> None:
    async with serving(tmp_path, "tests.support.clock") as warm:
        await eventually(lambda: warm.server)
        first = warm.server
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        runner = LocalRunner(warm=warm)
        assert await said_by(runner, launch_of(tmp_path, IMPORTED)) is False
        await eventually(lambda: warm.server is not None and warm.server != first)
        assert await said_by(runner, launch_of(tmp_path, IMPORTED)) is True


async def test_a_server_that_does_not_answer_is_ended_and_never_forks_a_second_trainer(tmp_path: Path) -> None:
    code = "import os; os.write(os.open('starts', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), b'x'); print(1)"
    async with serving(tmp_path, answer_seconds=0.2) as warm:
        await eventually(lambda: warm.server)
        hanging = warm.server
        assert hanging is not None
        freeze(hanging.pid)
        launch = launch_of(tmp_path, code)
        assert await said_by(LocalRunner(warm=warm), launch) == 1
        assert not processes.lives(hanging)
        await eventually(lambda: warm.server is not None and warm.server != hanging)
        assert (launch.directory / "starts").read_text() == "x"


async def test_a_server_that_cannot_be_started_is_started_when_it_can(tmp_path: Path) -> None:
    home = tmp_path / "later"
    async with serving(home, "tests.support.clock") as warm:
        assert await said_by(LocalRunner(warm=warm), launch_of(tmp_path, IMPORTED)) is False
        home.mkdir()
        await eventually(lambda: warm.server)


async def test_a_trainer_outlives_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path) as warm:
        await eventually(lambda: warm.server)
        runner = LocalRunner(warm=warm)
        launch = launch_of(tmp_path, SLEEP)
        process = runner.start(launch)
        await eventually((launch.directory / "ready").exists)
        server = warm.server
        assert server is not None
    assert not processes.lives(server)
    assert runner.alive(process)
    await runner.stop(launch.key, process, AT_ONCE)


async def test_a_server_left_by_a_former_agent_is_ended_before_anything_is_taken_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as former:
        await eventually(lambda: former.server)
        server = former.server
        assert server is not None
        WarmTrainers(tmp_path, child_environment(), [])
        assert not processes.lives(server)


async def test_a_process_with_threads_is_not_forked_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path, "tests.support.starts_a_thread") as warm:
        await eventually((tmp_path / "forkserver.json").exists)
        server = processes.identify(json.loads((tmp_path / "forkserver.json").read_text())["pid"])
        assert server is not None
        await eventually(lambda: not processes.lives(server))
        assert warm.server is None
        # Its keeper learns of its end no sooner than this test does.
        await eventually(lambda: "unfit" in capsys.readouterr().out)


@pytest.mark.parametrize(
    ("threads", "opened", "why"),
    [
        (1, "/dev/null", ""),
        (2, "/dev/null", "it has 2 threads"),
        (1, "/dev/nvidia0", "it has /dev/nvidia0 open"),
        (1, "/dev/nvidiactl", "it has /dev/nvidiactl open"),
    ],
)
def test_threads_and_open_devices_make_a_process_unfit(tmp_path: Path, threads: int, opened: str, why: str) -> None:
    for number in range(threads):
        (tmp_path / "task" / str(number)).mkdir(parents=True)
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd" / "0").symlink_to(opened)
    assert forkserver.unfit(tmp_path) == why


async def test_what_trainers_need_can_be_imported_without_a_thread_or_a_device(tmp_path: Path) -> None:
    code = """
import json, os, sys
threads = len(os.listdir("/proc/self/task"))
import torch
sys.modules["agent.trainer.preloading"].read_environment_again()
facts = {
    "threads": threads,
    "cuda": torch.cuda.is_initialized(),
    "devices": os.environ["CUDA_VISIBLE_DEVICES"],
    "computing": torch.get_num_threads(),
    "offline": __import__("huggingface_hub").constants.HF_HUB_OFFLINE,
}
print(json.dumps(facts))
"""
    async with serving(tmp_path, "agent.trainer.preloading") as warm:
        await eventually(lambda: warm.server, deadline_seconds=PRELOADED_SECONDS)
        launch = launch_of(tmp_path, code, CUDA_VISIBLE_DEVICES="3", OMP_NUM_THREADS="5")
        facts = await said_by(LocalRunner(warm=warm), launch)
    assert facts == {"threads": 1, "cuda": False, "devices": "3", "computing": 5, "offline": True}


def test_no_import_asks_torch_for_a_device() -> None:
    """On a host with GPUs the first question initialises CUDA, after which nothing may be forked."""
    code = """
import sys
from agent.trainer.isolation import leave_out_libraries
leave_out_libraries(quantizing=False)
import torch
asked = []
def spying(name, function):
    return lambda *arguments, **options: (asked.append(name), function(*arguments, **options))[1]
for name in ("is_available", "device_count", "is_bf16_supported", "get_device_capability", "_lazy_init"):
    setattr(torch.cuda, name, spying(name, getattr(torch.cuda, name)))
import agent.trainer.preloading
assert asked == [], asked
torch.cuda.is_available()
assert asked == ["is_available"]
"""
    environment = {**child_environment(), "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, timeout=PRELOADED_SECONDS, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()
