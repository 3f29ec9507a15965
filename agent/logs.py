"""Sends the trainers' logs to the control plane while they grow, and to the end before an attempt ends.

The control plane's answer says how much it has; after a restart an empty request asks for it. So no offset is stored.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from agent.ports import ControlPlane, NoAnswerError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.run import AttemptKey

_log = structlog.get_logger()
CHUNK_BYTES = 256 * 1024
EVERY_SECONDS = 1.0
_REST_SECONDS = 30.0


@dataclass(slots=True)
class _TrainerLog:
    path: Path
    offset: int
    enough: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class LogSender:
    """Sends the log of every attempt that it follows."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._logs: dict[AttemptKey, _TrainerLog] = {}

    def follow(self, key: AttemptKey, directory: Path, *, fresh: bool) -> None:
        """Send the attempt's log. `fresh`: none of it was ever sent. Repeatable."""
        offset = 0 if fresh else -1
        self._logs.setdefault(key, _TrainerLog(directory / "logs" / "rank-0.log", offset))

    def forget(self, key: AttemptKey) -> None:
        """Send no more of it. Repeatable."""
        self._logs.pop(key, None)

    async def run(self) -> None:
        """Look at every log once a second, for ever."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            for key in list(self._logs):
                while await self._send_next(key):
                    pass

    async def send_rest(self, key: AttemptKey) -> bool:
        """Send the log to its end, trying for up to 30 s; whether that worked or no more is wanted."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _REST_SECONDS
        while not self._complete(key):
            if not await self._send_next(key) and not self._complete(key):
                if loop.time() > end:
                    _log.warning("log not sent to its end", job=key.uid, attempt=key.number)
                    return False
                await asyncio.sleep(EVERY_SECONDS / 4)
        return True

    def _complete(self, key: AttemptKey) -> bool:
        log = self._logs.get(key)
        return log is None or log.enough or log.offset >= _size(log.path)

    async def _send_next(self, key: AttemptKey) -> bool:
        """Send one chunk, or ask where to go on; whether there may be more to send at once."""
        log = self._logs.get(key)
        if log is None or log.enough:
            return False
        async with log.turn:
            if log.offset >= _size(log.path):
                return False
            data = b"" if log.offset < 0 else _read(log.path, log.offset)
            try:
                answer = await self._control_plane.send_log(key, max(0, log.offset), data)
            except NoAnswerError:
                return False
            log.enough = answer.enough
            if answer.size_bytes is None:
                return False
            moved = answer.size_bytes != log.offset
            log.offset = answer.size_bytes
            return moved


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, CHUNK_BYTES, offset)
    finally:
        os.close(descriptor)
