"""Chooses where a submit is taken, and keeps the child that takes a crowd's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from controlplane.engine.submissions import Submitted, told_of
from controlplane.submitter import frames

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

    from controlplane.engine.changes import Told
    from controlplane.engine.preparing import Asked
    from controlplane.engine.waits import KnownWaits

CROWD = 16
"""With more submits under way than this a child is started,"""
FEW = 4
"""and once there is one, it gets what comes while more than these are under way: fewer are served faster in place."""
FRAMES_AHEAD = 1
"""Batches on their way to or from the child: one that it works on, one that waits for it."""
QUIET = timedelta(seconds=20)
PATIENCE = timedelta(seconds=5)
STARTING = timedelta(seconds=30)
"""A child that is not ready by then is killed; until it is, nobody waits for it."""
_PAUSE_SECONDS = 5.0
"""Before another is started."""
_log = structlog.get_logger()


@dataclass(slots=True)
class _Entrusted:
    """A submit that the child takes."""

    asked: Asked
    answer: asyncio.Future[Submitted | None]
    """None: not taken, as far as is known. Whoever waits has it taken in place."""


@dataclass(slots=True)
class _Batch:
    """What one frame entrusted, and what was known of waits then."""

    submits: list[_Entrusted] = field(default_factory=list)
    generation: int = 0


@dataclass(slots=True)
class _Child:
    """A child's stdin, and what it owes."""

    stdin: asyncio.StreamWriter
    waits: KnownWaits
    waiting: list[_Entrusted] = field(default_factory=list)
    sent: deque[_Batch] = field(default_factory=deque)
    scheduled: bool = False
    revision: int = -1
    """Of what the child knows of waits."""

    def take(self, entrusted: _Entrusted) -> None:
        """Entrusts a submit to it; those of one turn of the event loop share a frame."""
        self.waiting.append(entrusted)
        if not self.scheduled and len(self.sent) < FRAMES_AHEAD:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self.send)

    def send(self) -> None:
        """Sends what waits, if a frame may be."""
        self.scheduled = False
        if not self.waiting or len(self.sent) >= FRAMES_AHEAD:
            return
        batch, self.waiting = self.waiting, []
        self.sent.append(_Batch(batch, self.waits.generation))
        news = None if self.revision == self.waits.revision else self.waits.told()
        self.revision = self.waits.revision
        self.stdin.write(frames.packed((news, [frames.asked_values(each.asked) for each in batch])))

    def owed(self) -> list[_Entrusted]:
        """Everything that it was entrusted with and has not answered."""
        return [each for batch in self.sent for each in batch.submits] + self.waiting


class CrowdSubmitter:
    """Implements `Crowd`.

    Args:
        waits: why jobs wait, as the dispatcher knows.
        announce: hears of what the child has stored.
        setup: what the child is made of: rules, master key, the database's URL.
        patience: a child that answers no frame for so long, at most twice that, is killed.
        quiet: the child ends when no crowd came for so long.
    """

    def __init__(
        self,
        *,
        waits: KnownWaits,
        announce: Callable[[Told], None],
        setup: tuple[Any, bytes, str],
        patience: timedelta = PATIENCE,
        quiet: timedelta = QUIET,
    ) -> None:
        self._waits = waits
        self._announce = announce
        self._setup = setup
        self._patience = patience
        self._quiet = quiet
        self._wanted = asyncio.Event()
        self._child: _Child | None = None
        self.entrusted = 0
        """How many submits a child has answered."""
        self.pid = 0
        """The child's; 0: there is none that is ready."""

    async def take(self, asked: Asked, *, crowd: int) -> Submitted | None:
        """See Crowd."""
        child = self._child
        if child is None or crowd <= FEW:
            if crowd > CROWD:
                self._wanted.set()
            return None
        entrusted = _Entrusted(asked, asyncio.get_running_loop().create_future())
        child.take(entrusted)
        return await entrusted.answer

    async def run(self) -> None:
        """The loop: keeps a child while crowds come."""
        while True:
            await self._wanted.wait()
            try:
                process = await self._started()
            except OSError as error:
                _log.warning("submitter_not_started", error=str(error))
            else:
                await self._serve(process)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _started(self) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "controlplane.submitter",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("TRAINPLANE_")},
        )

    async def _serve(self, process: Process) -> None:
        """Until the child fails, or nobody needs it; whatever it still owes is then taken in place."""
        assert process.stdin is not None  # noqa: S101 - both are pipes, by `_started`
        assert process.stdout is not None  # noqa: S101
        child = _Child(process.stdin, self._waits)
        try:
            process.stdin.write(frames.packed(self._setup) + frames.packed((None, [])))
            child.sent.append(_Batch())
            await self._receive(child, process.stdout, pid=process.pid)
        except (EOFError, OSError, TimeoutError) as error:
            _log.warning("submitter_lost", pid=process.pid, error=f"{type(error).__name__}: {error}")
        finally:
            self._child, self.pid = None, 0
            try:
                await _ended(process)
            finally:
                for entrusted in child.owed():
                    # It may have been stored all the same: taken again under its uid, it is then found there.
                    if not entrusted.answer.done():
                        entrusted.answer.set_result(None)

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
            self._settle(child.sent.popleft(), frames.unpacked(content))
            if self._child is None:  # from its first answer on: until then, in place is sooner
                self._child, self.pid = child, pid
                self._wanted.clear()
            child.send()

    def _settle(self, batch: _Batch, answers: list[tuple[Any, ...]]) -> None:
        """Announces what a frame has stored, then answers each."""
        self.entrusted += len(answers)
        stored = [(frames.first_of(values), frames.why_of(values)) for values in answers if frames.is_created(values)]
        if stored:
            self._announce(told_of(stored, outdated=batch.generation != self._waits.generation))
        for entrusted, values in zip(batch.submits, answers, strict=True):
            if entrusted.answer.done():
                continue
            refused = frames.refused_of(values)
            if frames.is_created(values):
                submitted = Submitted(None, created=True, why=frames.why_of(values), answer=frames.answer_of(values))
                entrusted.answer.set_result(submitted)
            elif refused is None:
                entrusted.answer.set_result(None)
            else:
                entrusted.answer.set_exception(refused)


async def _ended(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
