"""`checkpoints`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainplane.cli import output as out
from trainplane.cli.jobs import JobId  # noqa: TC001 - typer reads it
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected

if TYPE_CHECKING:
    from trainplane.client import Client
    from trainplane.v1.checkpoint_pb2 import Checkpoint


def checkpoints(job_id: JobId, output: Output = Format.TEXT) -> None:
    """List the checkpoints that a job's trainers keep, the newest first."""

    async def work(client: Client) -> Exit:
        found = await client.checkpoints(job_id)
        if output is Format.JSON:
            out.print_json([out.as_dict(each) for each in found])
        elif found:
            out.print_table(("STEP", "ATTEMPT", "NODE", "SIZE", "SAVED"), [_row(each) for each in found])
        else:
            out.say("no checkpoints")
        return Exit.DONE

    connected(work, output=output)


def _row(each: Checkpoint) -> tuple[str, ...]:
    size = f"{each.size_bytes / 2**20:.1f} MiB"
    return (str(each.step), str(each.attempt), each.node, size, out.clock(each.create_time))
