"""`metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.jobs import JobId  # noqa: TC001 - typer reads it
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainplane.client import Client


def metrics(
    job_id: JobId,
    max_points: Annotated[int, typer.Option(min=10, max=1500, help="Of each series, at most so many points.")] = 500,
    output: Output = Format.TEXT,
) -> None:
    """Show how training went: each series in short, or with -o json its points."""

    async def work(client: Client) -> Exit:
        found = await client.metrics(job_id, max_points=max_points)
        if output is Format.JSON:
            series = [
                {"name": name, "steps": [step for step, _ in points], "values": [value for _, value in points]}
                for name, points in found.items()
            ]
            out.print_json({"series": series})
        elif found:
            out.print_table(
                ("SERIES", "STEPS", "FIRST", "LAST", "LEAST", "GREATEST"),
                [_row(name, points) for name, points in found.items()],
            )
        else:
            out.say("no metrics")
        return Exit.DONE

    connected(work, output=output)


def _row(name: str, points: Sequence[tuple[int, float]]) -> tuple[str, ...]:
    values = [value for _, value in points]
    numbers = (values[0], values[-1], min(values), max(values))
    return (name, f"{points[0][0]}-{points[-1][0]}", *(f"{number:.6g}" for number in numbers))
