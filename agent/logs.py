"""Sends the trainers' logs, every rank's, to the control plane while they grow, and to the end before an attempt ends.

The control plane's answer says how much it has; after a restart an empty request asks for it. So no offset is stored.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from agent import ranks
from agent.ports import ControlPlane, NoAnswerError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.run import AttemptKey

_log = structlog.get_logger()
CHUNK_BYTES = 256 * 1024
EVERY_SECONDS = 1.0
_REST_SECONDS = 30.0
#: The control plane is to be asked how much it has.
_UNKNOWN = -1


@dataclass(slots=True)
class _RankLog:
    rank: int
    path: Path
    offset: int
    enough: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def complete(self) -> bool:
        return self.enough or self.offset >= _size(self.path)


@dataclass(slots=True)
class _Followed:
    """An attempt's logs. A rank's log may appear at any time."""

    directory: Path
    first_offset: int
    by_rank: dict[int, _RankLog] = field(default_factory=dict)

    def current(self) -> list[_RankLog]:
        for rank, path in ranks.logs(self.directory).items():
            self.by_rank.setdefault(rank, _RankLog(rank, path, self.first_offset))
        return list(self.by_rank.values())


class LogSender:
    """Sends the logs of every attempt that it follows."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._attempts: dict[AttemptKey, _Followed] = {}

    def follow(self, key: AttemptKey, directory: Path, *, fresh: bool) -> None:
        """Send the attempt's logs. `fresh`: nothing of them was ever sent. Repeatable."""
        self._attempts.setdefault(key, _Followed(directory, 0 if fresh else _UNKNOWN))

    def forget(self, key: AttemptKey) -> None:
        """Send no more of it. Repeatable."""
        self._attempts.pop(key, None)

    async def run(self) -> None:
        """Look at every log once a second, for ever."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            for key in list(self._attempts):
                for log in self._current(key):
                    while await self._send_next(key, log):
                        pass

    async def send_rest(self, key: AttemptKey) -> bool:
        """Send the logs to their ends, trying for up to 30 s; whether that worked or no more is wanted."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _REST_SECONDS
        while rest := [log for log in self._current(key) if not log.complete]:
            if not await self._send_next(key, rest[0]) and not rest[0].complete:
                if loop.time() > end:
                    _log.warning("log not sent to its end", job=key.uid, attempt=key.number, rank=rest[0].rank)
                    return False
                await asyncio.sleep(EVERY_SECONDS / 4)
        return True

    def _current(self, key: AttemptKey) -> list[_RankLog]:
        followed = self._attempts.get(key)
        return [] if followed is None else followed.current()

    async def _send_next(self, key: AttemptKey, log: _RankLog) -> bool:
        """Send one chunk, or ask where to go on; whether there may be more to send at once."""
        async with log.turn:
            if log.complete:
                return False
            data = b"" if log.offset == _UNKNOWN else _read(log.path, log.offset)
            try:
                answer = await self._control_plane.send_log(key, log.rank, max(0, log.offset), data)
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
