"""A Python module run as a process of its own, to its end; nothing of it outlives a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Lines of a failed process that its error shows.
_LAST_LINES = 15


class ProcessFailedError(Exception):
    """The process ended with a status other than 0; the message has its last lines."""


async def run_module(module: str, *arguments: str, line: Callable[[str], None] | None = None) -> str:
    """Run `python -m module arguments…` and return what it printed on stdout.

    Args:
        module: its dotted name.
        arguments: its command line.
        line: gets each line of stdout as it comes.

    Raises:
        ProcessFailedError: it failed.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    )
    try:
        # Cancelled in here, it would be unknown whether there is a process.
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _end(await starting)
        raise
    try:
        printed, errors = await asyncio.gather(_lines(process.stdout, line), _lines(process.stderr, None))
        status = await process.wait()
    finally:
        await _end(process)
    if status != 0:
        last = "\n".join(f"  {each}" for each in (printed + errors)[-_LAST_LINES:])
        raise ProcessFailedError(f"{module} failed (status {status}); its last lines:\n{last}")
    return "\n".join(printed)


async def _lines(stream: asyncio.StreamReader | None, line: Callable[[str], None] | None) -> list[str]:
    found: list[str] = []
    while stream is not None and (raw := await stream.readline()):
        found.append(raw.decode(errors="replace").rstrip())
        if line is not None:
            line(found[-1])
    return found


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
