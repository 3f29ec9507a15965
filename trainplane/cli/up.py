"""`up`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit

if TYPE_CHECKING:
    from trainplane.up.record import Addresses
    from trainplane.up.settings import UpSettings
    from trainplane.up.stack import Preparing

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where everything is kept [default: ~/.local/share/trainplane].", envvar="TRAINPLANE_DATA_DIR"),
]


def up(
    *,
    data_dir: DataDir = None,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="TRAINPLANE_HTTP_PORT", help="Of the HTTP API; 0: any free one.")
    ] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="TRAINPLANE_GRPC_PORT", help="Of the gRPC API; 0: any free one.")
    ] = 50051,
    nats_port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="TRAINPLANE_NATS_PORT", help="Of NATS; 0: any free one.")
    ] = 4222,
    node: Annotated[str | None, typer.Option(help="The local node's name [default: this host's].")] = None,
    gpus: Annotated[
        str, typer.Option(help="Stand in for GPUs that are not there, e.g. 4xA100; training is on the CPU.")
    ] = "",
    cpus: Annotated[int, typer.Option(min=0, help="CPU cores that jobs may reserve; 0: those there are.")] = 0,
    memory_gb: Annotated[float, typer.Option(min=0, help="GiB that jobs may reserve; 0: what there is.")] = 0,
    dev: Annotated[bool, typer.Option("--dev", help="For development: the backend `mock`, gRPC reflection.")] = False,
    controlplane_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML of the control plane's own settings (docs/operations.md).")
    ] = None,
    agent_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML of the agent's own settings (docs/operations.md).")
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Run all of trainplane on this machine, until Ctrl-C."""
    from trainplane.up.settings import Inventory, Ports, UpSettings, chosen_data_dir, local_node_name

    settings = UpSettings(
        data_dir=chosen_data_dir(data_dir),
        ports=Ports(http=http_port, grpc=grpc_port, nats=nats_port),
        node=node or local_node_name(),
        inventory=Inventory(gpus=gpus, cpus=cpus, memory_gb=memory_gb),
        dev=dev,
        controlplane_config=_absolute(controlplane_config),
        agent_config=_absolute(agent_config),
    )
    from trainplane.up.programs import prepare

    raise typer.Exit(run(settings, output=output, prepared=prepare))


def run(settings: UpSettings, *, output: Format, prepared: Preparing) -> Exit:
    """Be `trainplane up` with the programs that `prepared` makes; the exit status."""
    from trainplane.up.errors import SettingsRefused, UpError
    from trainplane.up.signals import Interrupted, until_signalled
    from trainplane.up.stack import running

    was_ready = False

    async def work(hurry: asyncio.Event) -> None:
        nonlocal was_ready
        async with running(settings, tell=tell, hurry=hurry, prepared=prepared) as everything:
            was_ready = True
            _say_ready(everything.addresses, settings, output=output)
            await everything.failed()

    own_standard_streams()
    try:
        asyncio.run(until_signalled(work, tell=tell))
    except Interrupted:
        # Ending by a signal is what `up` is for, once it is up.
        return Exit.DONE if was_ready else Exit.INTERRUPTED
    except (UpError, OSError) as error:
        tell(f"error: {error}")
        return Exit.USAGE if isinstance(error, SettingsRefused) else Exit.REFUSED
    return Exit.DONE


def _absolute(file: Path | None) -> Path | None:
    return None if file is None else file.expanduser().absolute()


def tell(line: str) -> None:
    """A line on stderr; whether anybody reads it must not decide whether children are ended."""
    with contextlib.suppress(OSError, ValueError):
        out.say_aside(line)


def own_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 are open, so that no socket or log of ours becomes somebody's stdout."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - lives as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123


def _say_ready(addresses: Addresses, settings: UpSettings, *, output: Format) -> None:
    from dataclasses import asdict

    with contextlib.suppress(OSError, ValueError):
        if output is Format.JSON:
            out.print_json({"ready": True, **asdict(addresses), "data_dir": str(settings.data_dir)})
            return
        out.say(f"ready http={addresses.http} grpc={addresses.grpc} nats={addresses.nats}")
        if not addresses.grpc.endswith(":50051"):
            out.say(f"in another terminal first: export TRAINPLANE_ADDRESS={addresses.grpc}")
