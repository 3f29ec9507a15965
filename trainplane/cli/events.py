"""`events`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.jobs import JobId  # noqa: TC001 - typer reads it
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected

if TYPE_CHECKING:
    from trainplane.client import Client
    from trainplane.v1.job_event_pb2 import JobEvent


def events(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater number.")] = 0,
    output: Output = Format.TEXT,
) -> None:
    """List what happened to a job so far."""

    async def work(client: Client) -> Exit:
        async for event in client.events(job_id, after_sequence=after):
            if output is Format.JSON:
                out.print_json_line(event)
            else:
                out.say(line(event))
        return Exit.DONE

    connected(work, output=output)


def line(event: JobEvent) -> str:
    """An event for people, on one line."""
    parts = [
        out.clock(event.time),
        f"{event.sequence:>4}",
        f"{event.type:<20}",
        f"attempt {event.attempt}" if event.attempt else "",
        event.phase if event.type == "job.phase_changed" else "",
        out.progress_text(event.progress),
        out.explanation(event),
    ]
    return "  ".join(part for part in parts if part)
