"""Where ranks find each other: in a file if all are on one node, else by a store that rank 0 serves (ADR 0032).

    rank 0   listens at the gang's address and port, and waits for all, with a sign of life each second
    others   try to connect for as long as it takes: a node that has the model to fetch comes minutes later

Who never comes is not this file's matter: each node's agent tells the control plane of its end, which ends all.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import distributed

from agent.trainer.group import TIMEOUT
from agent.trainer.leader import RENDEZVOUS
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.trainer.assignment import Assignment, Gang
    from agent.trainer.group import Group, Meeting

BACKLOG = 1024
LOOK_SECONDS = 0.2
CHUNK_BYTES = 64 << 20
COPIES = "resumed"
"""In the attempt's directory: what was copied from the first node."""

log = logging.getLogger("trainer")


def meeting_of(assignment: Assignment, attempt_directory: Path) -> Meeting:
    """How the ranks of this attempt meet."""
    gang = assignment.gang
    if gang is None:
        return lambda _rank, size: _file_store(attempt_directory / RENDEZVOUS, size)
    # What an older attempt's ranks say, should they come by, is not heard.
    own = f"{assignment.uid}.{assignment.attempt}"
    return lambda rank, size: distributed.PrefixStore(own, _served(gang, own, rank, size))  # type: ignore[attr-defined]


def _file_store(path: Path, size: int) -> Any:
    return distributed.FileStore(str(path), size)  # type: ignore[attr-defined]  # public, but from the C extension


def _served(gang: Gang, own: str, rank: int, size: int) -> Any:
    options: dict[str, Any] = {"timeout": TIMEOUT, "wait_for_workers": False}
    if rank == 0:
        options["master_listen_fd"] = _listening(gang.address, gang.port).detach()
    store = distributed.TCPStore(gang.address, gang.port, size, rank == 0, **options)  # type: ignore[attr-defined]
    come = f"{own}/come"
    store.add(come, 1)
    told = 0
    while rank == 0 and (there := store.add(come, 0)) < size:
        if there != told:
            told = there
            log.info("met %d of %d ranks", there, size)
        PULSE.beat()
        time.sleep(LOOK_SECONDS)
    return store


def _listening(address: str, port: int) -> socket.socket:
    """Listens at the address alone; where it is none of this host's own, as behind a forwarded port, at all of them."""
    [(family, *_, place), *_] = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    listener = socket.socket(family, socket.SOCK_STREAM)
    # The agent holds the port for us (agent/rendezvous.py).
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        listener.bind(("", port))
    listener.listen(BACKLOG)
    return listener


def copies_of(assignment: Assignment, group: Group, attempt_directory: Path) -> Callable[[str], str] | None:
    """Copies a directory of rank 0's to where each rank can read it; None: they all can."""
    gang = assignment.gang
    if gang is None:
        return None
    return lambda directory: _copied(gang, group, Path(directory), attempt_directory / COPIES)


def _copied(gang: Gang, group: Group, directory: Path, copies: Path) -> str:
    place = directory if gang.node == 0 else copies / directory.name
    writes = gang.node > 0 and group.rank == gang.first_rank
    files = _files(directory) if group.first else []
    found = [(str(path.relative_to(directory)), path.stat().st_size) for path in files]
    names = _told(group, "\n".join(f"{size} {name}" for name, size in found))
    for line in names.splitlines():
        size, _, name = line.partition(" ")
        target = place / name
        if writes:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"")
        for offset in range(0, int(size), CHUNK_BYTES):
            chunk = group.share(_chunk(directory / name, offset) if group.first else None)
            if writes:
                with target.open("ab") as stream:
                    stream.write(chunk.tobytes())
            PULSE.beat()
    # Nobody reads before everybody has written.
    group.gather(None)
    group.share(np.zeros(1, dtype=np.uint8) if group.first else None)
    return str(place)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _told(group: Group, words: str) -> str:
    """Rank 0's words, on every rank."""
    told = group.share(_array(f" {words}".encode()) if group.first else None)
    return told.tobytes().decode()[1:]


def _chunk(path: Path, offset: int) -> Any:
    with path.open("rb") as stream:
        stream.seek(offset)
        return _array(stream.read(CHUNK_BYTES))


def _array(content: bytes) -> Any:
    """Bytes as they go through a group; torch wants them writable."""
    return np.frombuffer(bytearray(content), dtype=np.uint8)
