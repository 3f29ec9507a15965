"""`logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.jobs import JobId  # noqa: TC001 - typer reads it
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected

if TYPE_CHECKING:
    from trainplane.client import Client


def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for further lines until the job ends.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Print what a job's trainers wrote; also after its end."""

    async def work(client: Client) -> Exit:
        attempt = 0
        async for line in client.logs(job_id, follow=follow):
            if output is Format.JSON:
                out.print_json_line(line)
                continue
            if line.attempt > 1 and line.attempt != attempt:
                out.say_aside(f"--- attempt {line.attempt} ---")
            attempt = line.attempt
            out.say(f"[rank {line.rank}] {line.text}" if line.rank else line.text)
        if not attempt and output is Format.TEXT:
            out.say_aside("no log lines")
        return Exit.DONE

    connected(work, output=output)
