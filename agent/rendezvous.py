"""Where the ranks of several nodes meet: this host's address, a port that stays free, the interface that leads there.

A port is chosen when an attempt is claimed and used when its first rank is there, minutes later. Until then a socket of
ours is bound to it and does not listen: nobody else is given the port, and the rank, which says SO_REUSEADDR as we do,
may listen on it.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from agent.run import AttemptKey


class MeetingPorts:
    """The ports that are held for attempts on this node."""

    def __init__(self) -> None:
        self._held: dict[AttemptKey, socket.socket] = {}

    def offer(self, key: AttemptKey) -> int:
        """The attempt's port, held from now on; 0: the host has none to give. Repeatable."""
        held = self._held.get(key)
        if held is None:
            with suppress(OSError):
                held = self._held[key] = _bound()
        return 0 if held is None else int(held.getsockname()[1])

    def release(self, key: AttemptKey) -> None:
        """The attempt needs it no more, or never did. Repeatable."""
        held = self._held.pop(key, None)
        if held is not None:
            held.close()


def _bound() -> socket.socket:
    # Without SO_REUSEADDR the system chooses a port that nobody has bound, not even as we do below.
    with socket.socket() as chooser:
        chooser.bind(("", 0))
        port = chooser.getsockname()[1]
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", port))
    except OSError:
        held.close()
        raise
    return held


def own_address(host: str, port: int) -> str:
    """This host's address on the way to another; empty: it is not known, or is none that others reach."""
    address = _source(host, port)
    return "" if not address or ipaddress.ip_address(address.partition("%")[0]).is_loopback else address


def interface_towards(host: str, port: int) -> str:
    """The network interface on the way to a host, which may be this one. Empty: it is not known."""
    address = _source(host, port)
    for name, has in psutil.net_if_addrs().items():
        if address and any(each.address.partition("%")[0] == address.partition("%")[0] for each in has):
            return str(name)
    return ""


def _source(host: str, port: int) -> str:
    """The address that packets there come from. Nothing is sent."""
    with suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
    return ""
