"""Chooses where a submit is prepared, and keeps the child that prepares a crowd's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from controlplane.preparers import frames

if TYPE_CHECKING:
    from controlplane.engine.preparing import Asked, Prepared, Preparer

CROWD = 16
"""With more submits under way than this a child is started,"""
FEW = 4
"""and once there is one, it gets what comes while more than these are under way: fewer are served faster in place."""
FULL_FRAME = 16
FRAME_LINGER = timedelta(milliseconds=2)
"""A frame waits so long for more submits, if it has fewer: side by side each costs a third less (`preparing`)."""
FRAMES_AHEAD = 2
"""Frames on their way to or from the child: one that it works on, one that waits for it."""
QUIET = timedelta(seconds=20)
PATIENCE = timedelta(seconds=5)
STARTING = timedelta(seconds=30)
"""A child that is not ready by then is killed; until it is, nobody waits for it."""
_PAUSE_SECONDS = 5.0
"""Before another is started."""
_log = structlog.get_logger()


@dataclass(slots=True)
class _Entrusted:
    """A submit that the child prepares."""

    asked: Asked
    answer: asyncio.Future[Prepared | None]
    """None: not prepared. Whoever waits does it in place."""


@dataclass(slots=True)
class _Child:
    """A child's stdin, and what it owes."""

    stdin: asyncio.WriteTransport
    waiting: list[_Entrusted] = field(default_factory=list)
    sent: deque[list[_Entrusted]] = field(default_factory=deque)
    scheduled: bool = False

    def take(self, entrusted: _Entrusted) -> None:
        """Entrusts a submit to it; those that come soon after it share its frame."""
        self.waiting.append(entrusted)
        if len(self.waiting) >= FULL_FRAME:
            self.send()
        elif not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_later(FRAME_LINGER.total_seconds(), self._send_rest)

    def _send_rest(self) -> None:
        self.scheduled = False
        self.send()

    def send(self) -> None:
        """Sends what waits, if a frame may be."""
        if not self.waiting or len(self.sent) >= FRAMES_AHEAD:
            return
        batch, self.waiting = self.waiting, []
        self._write(batch, frames.packed([frames.asked_values(each.asked) for each in batch]))

    def set_up(self, setup: tuple[Any, bytes]) -> None:
        """Sends what comes first, and a frame of nothing, whose answer says that it is ready."""
        self._write([], frames.packed(setup) + frames.packed([]))

    def _write(self, batch: list[_Entrusted], content: bytes) -> None:
        self.sent.append(batch)
        if not self.stdin.is_closing():  # that the child is gone is found out where its answers are read
            self.stdin.write(content)

    def owed(self) -> list[_Entrusted]:
        """Everything that it was entrusted with and has not answered."""
        return [each for batch in self.sent for each in batch] + self.waiting


class CrowdPreparer:
    """Implements `Preparing`.

    Args:
        preparer: prepares in place.
        setup: what the child makes its own preparer of: the rules and the master key.
        patience: a child that answers no frame for so long, at most twice that, is killed.
        quiet: the child ends when no crowd came for so long.
    """

    def __init__(
        self, preparer: Preparer, *, setup: tuple[Any, bytes], patience: timedelta = PATIENCE, quiet: timedelta = QUIET
    ) -> None:
        self._preparer = preparer
        self._setup = setup
        self._patience = patience
        self._quiet = quiet
        self._wanted = asyncio.Event()
        self._child: _Child | None = None
        self.entrusted = 0
        """How many submits a child has prepared."""
        self.pid = 0
        """The child's; 0: there is none that is ready."""

    async def prepare(self, asked: Asked, *, crowd: int) -> Prepared:
        """See Preparing."""
        child = self._child
        if child is None or crowd <= FEW:
            if crowd > CROWD:
                self._wanted.set()
            return self._preparer(asked)
        entrusted = _Entrusted(asked, asyncio.get_running_loop().create_future())
        child.take(entrusted)
        prepared = await entrusted.answer
        return self._preparer(asked) if prepared is None else prepared

    async def run(self) -> None:
        """The loop: keeps a child while crowds come."""
        while True:
            await self._wanted.wait()
            try:
                process = _started()
            except OSError as error:
                _log.warning("preparer_not_started", error=str(error))
            else:
                await self._serve(process)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _serve(self, process: subprocess.Popen[bytes]) -> None:
        """Until the child fails, or nobody needs it; whatever it still owes is then prepared in place."""
        loop = asyncio.get_running_loop()
        answers = asyncio.StreamReader()
        child: _Child | None = None
        transports: list[asyncio.BaseTransport] = []
        try:
            stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
            transports.append(stdin)
            stdout, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(answers), process.stdout)
            transports.append(stdout)
            child = _Child(stdin)
            child.set_up(self._setup)
            await self._receive(child, answers, pid=process.pid)
        except (EOFError, OSError, TimeoutError) as error:
            _log.warning("preparer_lost", pid=process.pid, error=f"{type(error).__name__}: {error}")
        finally:
            self._child, self.pid = None, 0
            for entrusted in child.owed() if child is not None else ():
                if not entrusted.answer.done():
                    entrusted.answer.set_result(None)
            for transport in transports:
                transport.close()
            for pipe in (process.stdin, process.stdout)[len(transports) :]:
                if pipe is not None:
                    pipe.close()
            process.kill()
            await loop.run_in_executor(None, process.wait)

    async def _receive(self, child: _Child, answers: asyncio.StreamReader, *, pid: int) -> None:
        """Settles frame after frame; returns after a quiet time.

        Raises:
            EOFError: the child ended (`IncompleteReadError` is one).
            TimeoutError: it does not answer.
        """
        loop = asyncio.get_running_loop()
        needed = loop.time()
        while True:
            busy = bool(child.sent)
            idle = min(self._patience, self._quiet)
            limit = STARTING if self._child is None else self._patience if busy else idle
            try:
                async with asyncio.timeout(limit.total_seconds()):
                    header = await answers.readexactly(frames.HEADER.size)
                    content = await answers.readexactly(*frames.HEADER.unpack(header))
            except TimeoutError:
                if busy:
                    raise
                if not child.sent and loop.time() - needed >= self._quiet.total_seconds():
                    return
                continue  # where a frame was sent meanwhile, it has its whole time from now on
            needed = loop.time()
            for entrusted, (is_prepared, values) in zip(child.sent.popleft(), frames.unpacked(content), strict=True):
                self._settle(entrusted, is_prepared=is_prepared, values=values)
            if self._child is None:  # from its first answer on: until then, in place is sooner
                self._child, self.pid = child, pid
                self._wanted.clear()
            if not child.scheduled:
                child.send()

    def _settle(self, entrusted: _Entrusted, *, is_prepared: bool, values: Any) -> None:
        self.entrusted += 1
        if entrusted.answer.done():
            return
        if is_prepared:
            entrusted.answer.set_result(frames.prepared_of(values))
        else:
            entrusted.answer.set_exception(frames.refused_of(values))


def _started() -> subprocess.Popen[bytes]:
    """A child. Not the loop's own way: uvloop forks, and gRPC has threads."""
    return subprocess.Popen(
        [sys.executable, "-m", "controlplane.preparers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("TRAINPLANE_")},
    )
