"""Trainers as processes of this host.

An `sh` shim leads the session and records the exit status, so that it is known even if the agent was away when the
trainer ended. `sh` costs 1.5 ms where Python would cost 30. The shim traps SIGTERM: it must outlive its trainer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

from agent import processes
from agent.runners.protocol import LaunchError

if TYPE_CHECKING:
    from datetime import timedelta

    from agent.run import AttemptKey, Process
    from agent.runners.protocol import Launch

_SHIM = 'trap : TERM INT HUP; cd "$0" || exit 126; "$@"; echo $? > exit.tmp && mv exit.tmp exit'
_KILL_PAUSE_SECONDS = 0.02
_KILL_PAUSE_LIMIT_SECONDS = 1.0


class LocalRunner:
    """See Runner. Makes the process a subreaper, so that no descendant escapes."""

    name = "local"

    def __init__(self) -> None:
        processes.become_subreaper()
        self._shell = shutil.which("sh") or "/bin/sh"
        # Shims whose number must not be given away again before their session was swept.
        self._unswept: set[int] = set()

    def start(self, launch: Launch) -> Process:
        """See Runner."""
        log = launch.directory / "logs" / "rank-0.log"
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            pid = os.posix_spawn(
                self._shell,
                ["sh", "-c", _SHIM, str(launch.directory), *launch.argv],
                {**launch.environment, processes.MARKER: str(launch.key)},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM],
                setsigmask=[],
            )
        except (OSError, ValueError) as error:
            raise LaunchError(f"the trainer could not be started: {error}") from error
        process = processes.identify(pid)
        if process is None:
            raise LaunchError(f"the trainer's process {pid} vanished at its start")
        self._unswept.add(pid)
        return process

    def find(self, key: AttemptKey) -> Process | None:
        """See Runner."""
        everyone = processes.members(key, None, frozenset())
        leaders = [member for member in everyone if _leads_session(member)]
        return min(leaders, key=lambda member: member.start_ticks, default=None)

    def alive(self, process: Process) -> bool:
        """See Runner."""
        return processes.lives(process)

    async def gone(self, process: Process) -> None:
        """See Runner."""
        await processes.gone(process)

    async def stop(self, key: AttemptKey, process: Process | None, grace: timedelta) -> None:
        """See Runner."""
        left = await self._members(key, process, frozenset())
        if left and grace.total_seconds() > 0:
            for member in _asked(left, process):
                processes.send_signal(member, signal.SIGTERM)
            # Without a leader there is nobody whose end could be waited for.
            if process is not None and processes.lives(process):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace.total_seconds()):
                        await processes.gone(process)
            left = await self._members(key, process, left)
        pause = _KILL_PAUSE_SECONDS
        while left:
            for member in left:
                processes.send_signal(member, signal.SIGKILL)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _KILL_PAUSE_LIMIT_SECONDS)
            left = await self._members(key, process, left)
        if process is not None:
            self._unswept.discard(process.pid)
        processes.reap_strays(frozenset(self._unswept))

    @staticmethod
    async def _members(key: AttemptKey, leader: Process | None, known: frozenset[Process]) -> frozenset[Process]:
        return await asyncio.to_thread(processes.members, key, leader, known)


def _asked(members: frozenset[Process], leader: Process | None) -> list[Process]:
    """Whom SIGTERM goes to: the shim's own child, that is the trainer, which ends its workers itself; else to all."""
    if leader is None or leader not in members:
        return sorted(members, key=lambda member: member.pid)
    return [member for member in members if (found := processes.stat(member.pid)) and found.parent == leader.pid]


def _leads_session(member: Process) -> bool:
    found = processes.stat(member.pid)
    return found is not None and found.session == member.pid
