"""Keeps a fork server alive (`forkserver.py`), and has trainers forked from it.

    run:  spawn ─► it imports ─► ready ─► (forks) ─► it died ─► a pause ─► spawn …
    fork: order ─► answer, some 30 ms later: a session leader, marked, in the attempt's groups

Nothing depends on it: while there is no server, or if it does not answer, trainers are spawned as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog

from agent import processes
from agent.run import Process
from agent.runners.forkserver import MARKER_ROOM, ORDER_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agent.runners.protocol import Launch

_log = structlog.get_logger()
_NOTE = "forkserver.json"
_LOG = "forkserver.log"
_LOG_TAIL_BYTES = 2000
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.01
_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 300.0
_FORMS = (("-m",), ("-c",))
#: The room that a trainer's command line is shown in.
_PADDING = " " * 400


class NotForkedError(Exception):
    """No trainer was forked, or it is not known whether one was. The server is gone by then."""


class WarmTrainers:
    """A fork server of this agent's, and what to do with it.

    Args:
        home: a directory of this agent alone; the server's log and its pid stand there.
        environment: the server's: as a trainer's, without what is an attempt's.
        modules: what the server imports.
        answer_seconds: how long the server may take to fork; on a machine that swaps it is not the usual 30 ms.

    Ends the server of an agent before this one, so that none can fork a trainer that nobody expects any more.
    """

    def __init__(
        self, home: Path, environment: Mapping[str, str], modules: Sequence[str], *, answer_seconds: float = 5.0
    ) -> None:
        self._home = home
        self._environment = dict(environment)
        self._modules = tuple(modules)
        self._answer_seconds = answer_seconds
        self._line: socket.socket | None = None
        self._server: Process | None = None
        self._end_predecessor()

    @property
    def server(self) -> Process | None:
        """The server that forks now; None: there is none, or it still imports."""
        return self._server if self._line is not None else None

    async def run(self) -> None:
        """Have a server for ever; it ends with this task."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            try:
                await self._serve()
            except OSError as error:
                _log.warning("fork server not started", why=str(error))
            if time.monotonic() - began > _LAST_PAUSE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)

    async def _serve(self) -> None:
        """Have a server until it dies.

        Raises:
            OSError: there is no memory, or no process, for it.
        """
        began = time.monotonic()
        line, server = self._spawn()
        try:
            said = await self._first_word(line)
            if said.get("ready"):
                self._line = line
                _log.info("warm trainers ready", pid=server.pid, seconds=round(time.monotonic() - began, 1))
            await processes.gone(server)
        finally:
            self._line = None
            line.close()
            self._end(server)
        if "unfit" in said:
            _log.error("no warm trainers: the process that imported what they need is unfit", why=said["unfit"])
            await asyncio.Event().wait()  # what is imported would be the same the next time
        _log.warning("fork server ended", pid=server.pid, log=self._log_tail())

    def can_fork(self, launch: Launch) -> bool:
        """Whether there is a server, and what is to be started is a program of its interpreter's."""
        return self.server is not None and launch.argv[:1] == (sys.executable,) and launch.argv[1:2] in _FORMS

    def fork(self, launch: Launch, entries: Sequence[str]) -> Process:
        """Fork a trainer. Returns in some 30 ms: who leads its session, as if it had been spawned.

        Args:
            launch: one that `can_fork` holds for.
            entries: of the control groups that it is to be in.

        Raises:
            NotForkedError: it was not, as far as is known: a process that carries the marker may be there all the same.
        """
        if self._line is None or self._server is None:
            raise NotForkedError("there is no fork server yet")
        order = {
            "key": str(launch.key),
            "argv": launch.argv,
            "directory": str(launch.directory),
            "log": str(launch.log),
            "environment": dict(launch.environment),
            "entries": list(entries),
        }
        try:
            self._line.settimeout(self._answer_seconds)
            self._line.send(json.dumps(order).encode())
            answer = json.loads(self._line.recv(ORDER_LIMIT_BYTES) or b"{}")
        except (OSError, ValueError) as error:
            self._end(self._server)
            raise NotForkedError(f"the fork server does not answer: {error}") from error
        process = processes.identify(int(answer["pid"])) if "pid" in answer else None
        if process is None:
            raise NotForkedError(str(answer.get("error", "it vanished at its start")))
        return process

    def _spawn(self) -> tuple[socket.socket, Process]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undone:
            undone.callback(ours.close)
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", "agent.runners.forkserver", *self._modules, _PADDING],
                # Last, for what follows a value that was written anew is not seen by every reader.
                {**self._environment, processes.MARKER: "-" * MARKER_ROOM},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self._home / _LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM],
                setsigmask=[],
            )
            undone.pop_all()
        server = processes.identify(pid)
        if server is None:
            raise AssertionError(f"a child that nobody reaped, {pid}, vanished")
        self._server = server
        with contextlib.suppress(OSError):  # a disk that takes no note: a predecessor ends by itself, only later
            (self._home / _NOTE).write_text(json.dumps(asdict(server)), encoding="ascii")
        return ours, server

    async def _first_word(self, line: socket.socket) -> dict[str, object]:
        line.setblocking(False)
        try:
            said = await asyncio.get_running_loop().sock_recv(line, ORDER_LIMIT_BYTES)
            return dict(json.loads(said or b"{}"))
        except (ConnectionError, ValueError):
            return {}

    def _end(self, server: Process) -> None:
        processes.send_signal(server, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(server.pid, 0)

    def _end_predecessor(self) -> None:
        try:
            server = Process(**json.loads((self._home / _NOTE).read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError):
            return
        processes.send_signal(server, signal.SIGKILL)
        end = time.monotonic() + _END_SECONDS
        while processes.lives(server) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)

    def _log_tail(self) -> str:
        try:
            with (self._home / _LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip()
        except OSError:
            return ""
