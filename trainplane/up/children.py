"""One supervised child: started, asked until it is ready, started again when it dies, ended within bounds.

    spawn ─► starting ─► ready ─► exited ─┬─► pause ─► spawn …
                 └────────► exited ───────┴─► failed for good (wrong usage; never became ready)

Starting is one synchronous call, so that no cancellation can come between a process and our knowing of it. Each
child leads a session of its own: a terminal's Ctrl-C reaches `up` alone, which then ends the children in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from trainplane.up.errors import ChildFailed, ProgramMissing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

#: By convention: wrong usage; starting again changes nothing.
_USAGE_STATUS = 2
#: A child that never was ready is started so many times.
_FIRST_STARTS = 3
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
#: A child that ran for so long starts again with the first pause.
_SETTLED_SECONDS = 30.0
_PROBE_SECONDS = 0.1
_LAST_LINES = 12
#: A longer log is put aside, as `.log.1`, when the child is started.
_LONGEST_LOG_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run and how to treat it.

    Attributes:
        name: in messages and as the log's name.
        argv: the command line; holds no secret.
        log: where stdout and stderr are appended.
        is_ready: asks it once.
        environment: the whole of it.
        start_within: it has failed if it is not ready then.
        stop_within: it is killed if it has not ended so long after SIGTERM.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    is_ready: Callable[[], Awaitable[bool]]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    start_within: timedelta = timedelta(seconds=60)
    stop_within: timedelta = timedelta(seconds=5)


class Child:
    """A program as long as `up` wants it to run.

    Args:
        program: what to run.
        tell: gets lines for the user.
        spawned: is called after each start, before anything is awaited.
    """

    def __init__(self, program: Program, *, tell: Callable[[str], None], spawned: Callable[[], None]) -> None:
        self.program = program
        self._tell = tell
        self._spawned = spawned
        self._process: subprocess.Popen[bytes] | None = None
        self._exited: asyncio.Future[int] | None = None
        self._log_start = 0
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The running process; None between two."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it and return when it is ready.

        Raises:
            ChildFailed: it ended, or was not ready in time.
            ProgramMissing: there is no such program.
        """
        self._life = asyncio.create_task(self._live(), name=f"child {self.program.name}")
        ready = asyncio.create_task(self._ready.wait(), name=f"{self.program.name} becomes ready")
        try:
            seconds = self.program.start_within.total_seconds()
            await _first(self._life, ready, seconds=seconds)
        finally:
            ready.cancel()
        if self._life.done():
            self._life.result()
        if not self._ready.is_set():
            raise ChildFailed(self.program.name, f"was not ready within {seconds:g} s", last_lines=self._last_lines())

    @property
    def life(self) -> asyncio.Task[None] | None:
        """Ends with `ChildFailed` when it failed for good; a child that is started again has not. None: not started."""
        return self._life

    async def stop(self, hurry: asyncio.Event) -> None:
        """End it: SIGTERM, and SIGKILL to its group when its time is over or `hurry` is set. Never raises."""
        self._stopping.set()
        if self._process is not None and self._exited is not None and not self._exited.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            hurried = asyncio.create_task(hurry.wait(), name="hurry")
            await _first(self._exited, hurried, seconds=self.program.stop_within.total_seconds())
            hurried.cancel()
        self._kill_group()
        if self._life is not None:
            # A process that SIGKILL does not end hangs in the kernel; we do not hang with it.
            done, _ = await asyncio.wait({self._life}, timeout=self.program.stop_within.total_seconds())
            self._life.cancel()
            if done and not self._life.cancelled():
                self._life.exception()  # it was told already, or nobody asks any more

    def _kill_group(self) -> None:
        """Kill the child, and what it left behind in its process group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _live(self) -> None:
        starts, pause = 0, _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            born = time.monotonic()
            exited = self._spawn()
            starts += 1
            asking = asyncio.create_task(self._ask_until_ready(), name=f"ask {self.program.name}")
            try:
                await _first(exited, asking)
                if not exited.done():
                    asking.result()
                # Our own cancellation must not cancel what the waiting thread sets.
                status = await asyncio.shield(exited)
            finally:
                asking.cancel()
            if self._stopping.is_set():
                return
            if status == _USAGE_STATUS or (not self._ready.is_set() and starts == _FIRST_STARTS):
                raise ChildFailed(self.program.name, f"ended ({described(status)})", last_lines=self._last_lines())
            if time.monotonic() - born > _SETTLED_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self._tell(f"{self.program.name} ended ({described(status)}); starting it again in {pause:.1f} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _spawn(self) -> asyncio.Future[int]:
        program = self.program
        program.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if program.log.exists() and program.log.stat().st_size > _LONGEST_LOG_BYTES:
            program.log.replace(program.log.with_suffix(".log.1"))
        with program.log.open("ab") as log:
            self._log_start = log.tell()
            try:
                process = subprocess.Popen(
                    program.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(program.environment),
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise ProgramMissing(f"{program.argv[0]} was not found: pip install 'trainplane[up]'") from None
        loop = asyncio.get_running_loop()
        self._process, self._exited = process, loop.create_future()
        exited = self._exited

        def wait() -> None:
            status = process.wait()
            # The loop is closed if `up` gave up waiting for a process that SIGKILL did not end.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(exited.set_result, status)

        threading.Thread(target=wait, name=f"wait for {program.name}", daemon=True).start()
        self._spawned()
        return exited

    async def _ask_until_ready(self) -> None:
        while not await self.program.is_ready():  # noqa: ASYNC110 - it is another process that changes
            await asyncio.sleep(_PROBE_SECONDS)
        self._ready.set()

    def _last_lines(self) -> str:
        with self.program.log.open("rb") as file:
            file.seek(max(self._log_start, self.program.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {self.program.name}: {line}" for line in lines[-_LAST_LINES:])


async def _first(*futures: asyncio.Future[Any], seconds: float | None = None) -> None:
    """Wait until one of them is done, at most so long; cancels none of them."""
    await asyncio.wait(set(futures), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


def described(status: int) -> str:
    """`exit status 1`, `killed by SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
