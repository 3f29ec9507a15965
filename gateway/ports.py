"""Holding a TCP port before Envoy listens on it, and naming who has it if it is taken."""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path

_LISTEN = "0A"


class PortTakenError(Exception):
    """Someone else listens on the port; the message says who, if that can be found out."""


def reserve(host: str, port: int) -> socket.socket:
    """Bind a port without listening on it, so that nobody else is given it and Envoy still can listen.

    Linux lets two sockets with SO_REUSEADDR share a port until one of them listens; Envoy sets it. The socket may stay
    open for good: connections go to the one who listens.

    Args:
        host: an IP address.
        port: 0 for any free one; `getsockname()` tells which.

    Raises:
        PortTakenError: someone listens there.
        OSError: the address is not this machine's, or may not be bound.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"{host}:{port} is taken by {_listener(port)}") from error
        raise
    return held


def _listener(port: int) -> str:
    """Name the process that listens on a port, from /proc; another user's processes stay unnamed."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue  # ended meanwhile, or not ours to look into
    return "another process"
