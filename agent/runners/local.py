"""Trainers as processes of this host.

An `sh` shim leads the session and records the exit status, so that it is known even if the agent was away when the
trainer ended. `sh` costs 1.5 ms where Python would cost 30. The shim traps SIGTERM: it must outlive its trainer. It
enters the attempt's control group first. A trainer that is forked (`warm.py`) has a shim that does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog

from agent import processes
from agent.cgroups import Cgroups, Group, MemoryUse
from agent.runners.protocol import LaunchError
from agent.runners.warm import NotForkedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from pathlib import Path

    from agent.run import AttemptKey, Process
    from agent.runners.protocol import Launch
    from agent.runners.warm import WarmTrainers

_log = structlog.get_logger()
#: Its arguments: the directory, the group's entries, `--`, the trainer's command line.
_SHIM = (
    'trap : TERM INT HUP; cd "$0" || exit 126; '
    'while [ "$1" != -- ]; do echo 0 >"$1" || { echo 125 >exit; exit 125; }; shift; done; shift; '
    '"$@"; echo $? > exit.tmp && mv exit.tmp exit'
)
_MEMORY = "memory.json"
#: How often a group is looked at that loses one process, and not all, when its memory is used up.
_LOOK_SECONDS = 0.5
_REMOVE_TRIES = 100
_STACKS_SECONDS = 10.0
"""What a process has for writing them; one that does not answer is not waited for any longer."""
_STACKS_LOOK_SECONDS = 0.01
_QUIET_LOOKS = 3
_KILL_PAUSE_SECONDS = 0.02
_KILL_PAUSE_LIMIT_SECONDS = 1.0


class LocalRunner:
    """See Runner. Makes the process a subreaper, so that no descendant escapes.

    Args:
        cgroups: where groups are made; none: trainers run unbound, and are found by session and marker alone.
        directory_of: an attempt's directory, where its group is noted.
        warm: forks those trainers that may be forked; none: all are spawned.
    """

    name = "local"

    def __init__(
        self,
        cgroups: Cgroups | None = None,
        *,
        directory_of: Callable[[AttemptKey], Path] | None = None,
        warm: WarmTrainers | None = None,
    ) -> None:
        processes.become_subreaper()
        self._cgroups = cgroups or Cgroups()
        self._directory_of = directory_of
        self._warm = warm
        self._shell = shutil.which("sh") or "/bin/sh"
        # Shims whose number must not be given away again before their session was swept.
        self._unswept: set[int] = set()

    def start(self, launch: Launch) -> Process:
        """See Runner."""
        try:
            group = self._cgroups.make(str(launch.key), launch.bounds, launch.directory)
        except OSError as error:
            raise LaunchError(f"the trainer's control group could not be made: {error}") from error
        process = self._forked(launch, group)
        if process is not None:
            self._unswept.add(process.pid)
            return process
        try:
            return self._spawn(launch, group)
        except LaunchError:
            group.remove()
            raise

    def _forked(self, launch: Launch, group: Group) -> Process | None:
        """The trainer, if it could be forked."""
        if not launch.warm or self._warm is None or not self._warm.can_fork(launch):
            return None
        try:
            return self._warm.fork(launch, group.entries)
        except NotForkedError as error:
            _log.warning("trainer not forked", job=launch.key.uid, attempt=launch.key.number, why=str(error))
            # An answer may be lost where the fork was not; there must never be two trainers of one attempt.
            return self.find(launch.key)

    def _spawn(self, launch: Launch, group: Group) -> Process:
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            pid = os.posix_spawn(
                self._shell,
                ["sh", "-c", _SHIM, str(launch.directory), *group.entries, "--", *launch.argv],
                {**launch.environment, processes.MARKER: str(launch.key)},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(launch.log), append, 0o600),
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

    async def gone(self, key: AttemptKey, process: Process) -> None:
        """See Runner."""
        group = self._group(key)
        while group.memory() is not None and not group.kills_as_one:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    return await processes.gone(process)
            except TimeoutError:
                used = group.memory()
                if used is not None and used.kills:
                    group.kill()
        return await processes.gone(process)

    def memory(self, key: AttemptKey) -> MemoryUse | None:
        """See Runner."""
        if self._directory_of is None:
            return None
        try:
            return MemoryUse(**json.loads((self._directory_of(key) / _MEMORY).read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError):
            return self._group(key).memory()

    async def show_stacks(self, key: AttemptKey, process: Process | None) -> None:
        """See Runner."""
        members = await self._members(key, process, frozenset())
        # What was stopped comes last: it goes on then, and so does who waits for it and was to say where.
        for member in sorted(members, key=lambda member: (_is_stopped(member), member.pid)):
            if processes.catches(member.pid, signal.SIGUSR1):
                processes.send_signal(member, signal.SIGUSR1)
                # One that was stopped writes when it goes on.
                processes.send_signal(member, signal.SIGCONT)
                # One after the other: where processes share a log, two that write at once tear each other's lines.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STACKS_SECONDS):
                        await _handled(member, signal.SIGUSR1)

    async def stop(self, key: AttemptKey, process: Process | None, grace: timedelta) -> None:
        """See Runner."""
        group = self._group(key)
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
            group.kill()
            for member in left:
                processes.send_signal(member, signal.SIGKILL)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _KILL_PAUSE_LIMIT_SECONDS)
            left = await self._members(key, process, left)
        if process is not None:
            self._unswept.discard(process.pid)
        processes.reap_strays(frozenset(self._unswept))
        await self._dissolve(key, group)

    def _group(self, key: AttemptKey) -> Group:
        return Group(()) if self._directory_of is None else Group.noted(self._directory_of(key))

    async def _dissolve(self, key: AttemptKey, group: Group) -> None:
        """Keep what the group knows of memory, and remove it; nobody is in it any more."""
        used = group.memory()
        if used is not None and self._directory_of is not None:
            with contextlib.suppress(FileNotFoundError):  # the attempt is forgotten already
                (self._directory_of(key) / _MEMORY).write_text(json.dumps(asdict(used)))
        for _ in range(_REMOVE_TRIES):
            if group.remove():
                return
            await asyncio.sleep(_KILL_PAUSE_SECONDS)  # the kernel has not let go of the last one yet
        _log.warning("control group not removed", job=key.uid, attempt=key.number, groups=list(map(str, group.paths)))

    async def _members(self, key: AttemptKey, leader: Process | None, known: frozenset[Process]) -> frozenset[Process]:
        return await asyncio.to_thread(lambda: processes.members(key, leader, known, grouped=self._group(key).pids()))


def _asked(members: frozenset[Process], leader: Process | None) -> list[Process]:
    """Whom SIGTERM goes to: the shim's own child, that is the trainer, which ends its workers itself; else to all."""
    if leader is None or leader not in members:
        return sorted(members, key=lambda member: member.pid)
    return [member for member in members if (found := processes.stat(member.pid)) and found.parent == leader.pid]


def _is_stopped(member: Process) -> bool:
    found = processes.stat(member.pid)
    return found is not None and found.state == "T"


async def _handled(member: Process, number: signal.Signals) -> None:
    """Return when a signal waits for a process no more and its handler does not run."""
    quiet = 0
    # A signal that is being delivered waits no more and is not yet blocked: one look could fall in between.
    while quiet < _QUIET_LOOKS:
        await asyncio.sleep(_STACKS_LOOK_SECONDS)
        quiet = 0 if processes.handles(member.pid, number) else quiet + 1


def _leads_session(member: Process) -> bool:
    found = processes.stat(member.pid)
    return found is not None and found.session == member.pid
