"""`submit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected, usage_error
from trainplane.cli.watch import detached, explain_waiting, follow, placed_or_explained

if TYPE_CHECKING:
    from trainplane.client import Client
    from trainplane.v1.job_pb2 import Job

RequestFile = Annotated[str, typer.Argument(metavar="FILE", help="The request, JSON or YAML; - reads stdin.")]


def submit(
    file: RequestFile,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job to its end.")] = False,
    job_id: Annotated[str | None, typer.Option(help="Take this id in place of the file's.")] = None,
    new_id: Annotated[bool, typer.Option("--new-id", help="Take a fresh id in place of the file's.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Submit a job. Repeating the same request answers the same job.

    file://./x in the request is relative to the request file's folder.
    """
    if job_id is not None and new_id:
        usage_error("--job-id and --new-id exclude each other")
    submitted: list[str] = []

    async def work(client: Client) -> Exit:
        from trainplane.cli import request_file
        from trainplane.sdk.documents import new_job_id

        job = await client.submit(request_file.read(file, job_id=new_job_id() if new_id else job_id))
        submitted.append(job.job_id)
        _show(job, output=output, watched=watch)
        if watch:
            return await follow(client, job.job_id, output=output)
        if output is Format.TEXT:
            await _say_how_it_stands(client, job)
        return Exit.DONE

    connected(work, output=output, on_interrupt=lambda: detached(submitted[0]) if submitted else "")


def _show(job: Job, *, output: Format, watched: bool) -> None:
    if output is Format.TEXT:
        out.print_warnings(job)
        if job.end_time.seconds:
            out.say(f"{job.job_id} has ended before (uid {job.uid}); --new-id makes another job of the request")
        else:
            out.say(f"{job.job_id} accepted (uid {job.uid})")
    elif watched:
        out.print_json_line(job)
    else:
        out.print_json(out.as_dict(job))


async def _say_how_it_stands(client: Client, job: Job) -> None:
    job = await placed_or_explained(client, job)
    if job.state == job.QUEUED and job.pending_reason:
        await explain_waiting(client, job, out.say)
    else:
        out.say(" ".join(part for part in ("now", out.state_name(job), out.explanation(job)) if part))
    if not job.end_time.seconds:
        out.say(f"watch it with: trainplane watch {job.job_id}")
