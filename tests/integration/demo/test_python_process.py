import asyncio
import contextlib

import psutil
import pytest

from tests.support.eventually import eventually
from trainplane.demo.python_process import ProcessFailedError, run_module


async def test_what_it_printed_comes_back_line_by_line():
    lines = []
    said = await run_module("calendar", "2030", "1", line=lines.append)
    assert said.splitlines() == lines
    assert "January 2030" in lines[0]


async def test_a_failure_has_its_last_lines():
    with pytest.raises(ProcessFailedError, match="No module named no_such_module"):
        await run_module("no_such_module")


def servers(of: psutil.Process) -> list[psutil.Process]:
    """Its children that run our server; other tests of this process may have left zombies."""
    found = []
    for child in of.children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "http.server" in " ".join(child.cmdline()):
                found.append(child)
    return found


async def test_a_cancelled_one_leaves_nothing():
    ours = psutil.Process()
    serving = asyncio.create_task(run_module("http.server", "0", "--bind", "127.0.0.1"))
    (child,) = await eventually(lambda: servers(ours))
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await eventually(lambda: not child.is_running())


async def test_one_cancelled_while_it_starts_leaves_nothing():
    ours = psutil.Process()
    starting = asyncio.create_task(run_module("http.server", "0", "--bind", "127.0.0.1"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert servers(ours) == []
