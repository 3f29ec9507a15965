"""`jobs`, `job`, `cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected, usage_error

if TYPE_CHECKING:
    from trainplane.client import Client
    from trainplane.v1.job_pb2 import Job

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's name.")]


def jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only jobs with this label, key=value; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    output: Output = Format.TEXT,
) -> None:
    """List jobs, newest first."""
    states = [name.upper() for name in state or ()]

    async def work(client: Client) -> Exit:
        found: list[Job] = []
        async for each in client.list(states=_known(states), labels=label or (), page_size=min(limit, 500)):
            found.append(each)
            if len(found) == limit:
                break
        if output is Format.JSON:
            out.print_json([out.as_dict(each) for each in found])
        elif found:
            columns = ("JOB", "STATE", "PHASE", "PROGRESS", "CREATED", "WHY")
            out.print_table(columns, [_row(each) for each in found])
        else:
            out.say("no jobs")
        return Exit.DONE

    connected(work, output=output)


def _known(states: list[str]) -> list[str]:
    from trainplane.v1.job_pb2 import Job

    known = [name for name, number in Job.State.items() if number]
    for name in states:
        if name not in known:
            usage_error(f"there is no state {name}; there are {', '.join(known)}")
    return states


def _row(job: Job) -> tuple[str, ...]:
    why = job.pending_reason or out.explanation(job)
    created = out.clock(job.create_time)
    return (job.job_id, out.state_name(job), job.phase, out.progress_text(job.progress), created, why)


def job(job_id: JobId, output: Output = Format.TEXT) -> None:
    """Show one job."""

    async def work(client: Client) -> Exit:
        found = await client.get(job_id)
        if output is Format.JSON:
            out.print_json(out.as_dict(found))
        else:
            show(found)
        return Exit.DONE

    connected(work, output=output)


def show(job: Job) -> None:
    """Print a job for people."""
    place = f"{job.queue_position}. in the queue" if job.queue_position else ""
    out.print_fields(
        [
            ("job", job.job_id),
            ("uid", job.uid),
            ("state", " ".join(part for part in (out.state_name(job), job.phase) if part)),
            ("why", out.explanation(job)),
            ("waits", "; ".join(part for part in (job.pending_reason, place) if part)),
            ("progress", out.progress_text(job.progress)),
            ("model", f"{job.spec.base_model.model_name} {job.base_model_commit}".strip()),
            ("method", job.spec.customization.method),
            ("output", job.output_uri),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))),
            ("created", out.clock(job.create_time)),
            ("started", out.clock(job.start_time)),
            ("ended", out.clock(job.end_time)),
        ]
        + [(f"attempt {each.number}", _attempt(each)) for each in job.attempts]
    )
    for warning in job.warnings:
        out.say(out.warning_line(warning))


def _attempt(attempt: Job.Attempt) -> str:  # type: ignore[name-defined]
    some = f"{len(attempt.devices)} each" if attempt.other_nodes else ", ".join(attempt.devices)
    devices = f" on devices {some}" if attempt.devices else ""
    nodes = " + ".join((attempt.node, *attempt.other_nodes))
    return f"{nodes}{devices} {attempt.reason}".strip()


def cancel(job_id: JobId, output: Output = Format.TEXT) -> None:
    """Cancel a job: its processes end, its devices are freed. May be repeated."""

    async def work(client: Client) -> Exit:
        found = await client.cancel(job_id)
        if output is Format.JSON:
            out.print_json(out.as_dict(found))
        elif out.state_name(found) == "CANCELLED":
            out.say(f"{job_id} is CANCELLED")
        else:
            out.say(f"{job_id} is {out.state_name(found)}; watch its end with: trainplane watch {job_id}")
        return Exit.DONE

    connected(work, output=output)
