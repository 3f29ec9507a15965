"""The two files that say what runs: `up.json` for users, `children.json` for the next `up`. Each is replaced whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts of a running `up` listen."""

    http: str
    """`http://127.0.0.1:8080`."""
    grpc: str
    """`127.0.0.1:50051`, for TRAINPLANE_ADDRESS."""
    nats: str
    """`nats://127.0.0.1:4222`."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process, told from a later one with the same pid by its start."""

    name: str
    pid: int
    start_time: float
    """Seconds since the epoch, as psutil has it."""


def recorded(pids: Mapping[str, int]) -> list[Recorded]:
    """The processes that still run, with their starts."""
    found = []
    for name, pid in pids.items():
        try:
            found.append(Recorded(name, pid, psutil.Process(pid).create_time()))
        except psutil.NoSuchProcess:
            continue
    return found


def write_children(path: Path, children: Sequence[Recorded]) -> None:
    """Say which processes are there to be ended."""
    _replace(path, {"children": [asdict(child) for child in children]})


def read_children(path: Path) -> list[Recorded]:
    """What `write_children` wrote; nothing if the file is missing or torn."""
    try:
        return [Recorded(**child) for child in json.loads(path.read_text())["children"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_up(path: Path, addresses: Addresses, children: Sequence[Recorded]) -> None:
    """Say where everything is, now that it is ready."""
    ours = {"pid": os.getpid(), "start_time": psutil.Process().create_time()}
    _replace(path, {**asdict(addresses), **ours, "children": [asdict(child) for child in children]})


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(path)
