"""Taking what only one may have, and naming who has it.

A port is bound without listening and held so for as long as `up` runs: Linux lets the child, which sets
SO_REUSEADDR too, listen on it, and gives it to nobody else who asks for a free one, not even while the child is
being restarted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

import psutil

from trainplane.up.errors import Taken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def held_port(host: str, port: int, *, name: str, variable: str) -> Iterator[int]:
    """Hold a port, or any free one for 0; yields its number.

    Args:
        host: an IPv4 address of this machine.
        port: the number, or 0.
        name: what it is for, in the error.
        variable: the environment variable that chooses another, in the error.

    Raises:
        Taken: somebody listens there; names the process.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            who = "the system (it needs privileges)" if error.errno == errno.EACCES else listener(port)
            flag = f"--{name.lower()}-port"
            raise Taken(
                f"the {name} port {host}:{port} is taken by {who}; choose another with {flag} or {variable} (0: any)"
            ) from None
        yield held.getsockname()[1]


def listener(port: int) -> str:
    """Who listens on a TCP port: pid and command, as far as this user may know."""
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return described(connection.pid) if connection.pid else "another user's process"
    return "another process"


def described(pid: int) -> str:
    """`pid 42 (python -m http.server)`."""
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        command = ""
    return f"pid {pid} ({command[:120]})" if command else f"pid {pid}"


@contextlib.contextmanager
def held_directory(lock: Path) -> Iterator[None]:
    """Hold a data directory by a lock on a file in it; the system releases it however this process ends.

    Raises:
        Taken: another `up` runs there; names the process.
    """
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            file.seek(0)
            pid = file.read().strip()
            who = described(int(pid)) if pid.isdigit() else "another process"
            raise Taken(
                f"the data directory {lock.parent} is taken by {who}; stop that, or choose another with --data-dir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
