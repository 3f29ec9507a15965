"""`nodes` and `nodes enroll`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected, usage_error
from trainplane.cli.up import DataDir  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from pathlib import Path

    from trainplane.client import Client
    from trainplane.v1.node_pb2 import Node

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def nodes(context: typer.Context, output: Output = Format.TEXT) -> None:
    """List the machines that take jobs; `nodes enroll` lets another one join."""
    if context.invoked_subcommand is not None:
        return

    async def work(client: Client) -> Exit:
        found = await client.nodes()
        if output is Format.JSON:
            out.print_json([out.as_dict(each) for each in found])
        elif found:
            columns = ("NODE", "STATE", "RUNNER", "GPUS", "CPUS FREE", "MEMORY FREE", "LAST HEARD", "WHY")
            out.print_table(columns, [_row(each) for each in found])
        else:
            out.say("no node ever joined; start an agent: trainplane up, or trainplane nodes enroll NAME")
        return Exit.DONE

    connected(work, output=output)


def _row(node: Node) -> tuple[str, ...]:
    free = sum(1 for gpu in node.gpus if not gpu.job_id)
    kinds = ", ".join(sorted({gpu.type for gpu in node.gpus}))
    gpus = f"{free} of {len(node.gpus)} free: {kinds}" if node.gpus else "none"
    return (
        node.name,
        out.state_name(node),
        node.runner + (" (simulated)" if node.simulated else ""),
        gpus,
        f"{node.cpus_free} of {node.cpus}",
        f"{node.memory_gb_free:.0f} of {node.memory_gb:.0f} GiB",
        out.clock(node.last_sync_time),
        node.reason,
    )


@app.command("enroll")
def enroll(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new node's name: 1-63 of A-Z a-z 0-9 _ -.")],
    out_file: Annotated[str | None, typer.Option("--out", help="Where to write its credentials.")] = None,
    data_dir: DataDir = None,
    output: Output = Format.TEXT,
) -> None:
    """Mint the credentials with which another machine's agent joins, and print the command to run there."""
    from pathlib import Path

    from trainplane.up.settings import chosen_data_dir
    from trainplane.wire import credentials

    folder = chosen_data_dir(data_dir)
    target = Path(out_file or f"{name}.creds").absolute()
    try:
        keys = credentials.load(_keys_of(folder))
        credentials.write_secret(target, keys.mint_node(name))
    except FileExistsError:
        usage_error(f"{target} exists already; name another file with --out")
    except (OSError, ValueError) as error:
        usage_error(str(error))
    command = f"trainplane-agent --nats {_nats_url(folder)} --node {name} --credentials {target}"
    if output is Format.JSON:
        out.print_json({"node": name, "credentials": str(target), "command": command})
    else:
        out.say(f"{target} lets one agent join as {name}; it is a secret. On that machine:")
        out.say(f"  {command}")


def _keys_of(folder: Path) -> Path:
    from trainplane.up.layout import Layout

    path = Layout(folder).nats_keys
    if not path.exists():
        usage_error(f"{folder} has no installation's keys; run `trainplane up` there first, or say --data-dir")
    return path


def _nats_url(folder: Path) -> str:
    """The running installation's NATS, else where it would be by default."""
    from trainplane.up.layout import Layout

    try:
        return str(json.loads(Layout(folder).up_json.read_text())["nats"])
    except (OSError, ValueError, KeyError):
        return "nats://127.0.0.1:4222"
