"""What `up` is told: by flags, else by the environment, else the defaults of docs/cli.md."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

DATA_DIR_VARIABLE = "TRAINPLANE_DATA_DIR"
DEFAULT_DATA_DIR = "~/.local/share/trainplane"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on 127.0.0.1; 0 stands for any free one."""

    http: int = 8080
    grpc: int = 50051
    nats: int = 4222


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the local node says it has; empty values are found out by the agent.

    Attributes:
        gpus: `4xA100`: stand-ins for devices that are not there; jobs then train on the CPU.
        cpus: cores that jobs may reserve.
        memory_gb: GiB that jobs may reserve.
    """

    gpus: str = ""
    cpus: int = 0
    memory_gb: float = 0


@dataclass(frozen=True, slots=True)
class UpSettings:
    """One `up`.

    Attributes:
        data_dir: everything that it keeps.
        ports: where its parts listen.
        node: the local node's name.
        inventory: what the local node says it has.
        dev: backends for development (`mock`), and gRPC reflection.
        controlplane_config: TOML of the control plane's own settings, beside those that `up` decides.
        agent_config: likewise of the agent's.
    """

    data_dir: Path
    ports: Ports = field(default_factory=Ports)
    node: str = "local"
    inventory: Inventory = field(default_factory=Inventory)
    dev: bool = False
    controlplane_config: Path | None = None
    agent_config: Path | None = None


def chosen_data_dir(given: Path | None) -> Path:
    """The data directory: the one given, else the environment's, else the default; absolute."""
    chosen = given or Path(os.environ.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR)
    return chosen.expanduser().absolute()


def local_node_name() -> str:
    """This host's name as a node's name; `local` if nothing of it can be one."""
    short = socket.gethostname().partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", short).strip("-")[:63] or "local"
