"""`watch`, and what `submit --watch` shares with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import display
from trainplane.cli import output as out
from trainplane.cli.advice import advice
from trainplane.cli.jobs import JobId  # noqa: TC001 - typer reads it
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trainplane.client import Client
    from trainplane.v1.job_pb2 import Job

#: How often a waiting job is asked why it waits.
_LOOK_SECONDS = 2.0
#: The dispatcher looks at a new job within a second; until then it has no reason to wait.
_FIRST_LOOKS = 8
_FIRST_LOOK_SECONDS = 0.25


def watch(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater number.")] = 0,
    output: Output = Format.TEXT,
) -> None:
    """Follow a job to its end; exit 0 if it succeeded, 1 if not."""

    async def work(client: Client) -> Exit:
        return await follow(client, job_id, output=output, after=after)

    connected(work, output=output, on_interrupt=lambda: detached(job_id))


def detached(job_id: str) -> str:
    """What to say at Ctrl-C: the job does not end with its watcher."""
    return (
        f"\ndetached; {job_id} goes on. Cancel it with: trainplane cancel {job_id}\n"
        f"watch it again with: trainplane watch {job_id}"
    )


async def follow(client: Client, job_id: str, *, output: Format, after: int = 0) -> Exit:
    """Show a job's events to its end; the status says how it ended."""
    if output is Format.JSON:
        async for event in client.watch(job_id, after_sequence=after):
            out.print_json_line(event)
    else:
        with display.for_this_terminal() as shown:
            async with _explaining(client, job_id, shown.note):
                async for event in client.watch(job_id, after_sequence=after):
                    shown.event(event)
    job = await client.get(job_id)
    if output is Format.TEXT:
        _say_how_it_ended(job)
    return Exit.DONE if job.state == job.SUCCEEDED else Exit.JOB_FAILED


def _say_how_it_ended(job: Job) -> None:
    start, end = out.moment(job.start_time), out.moment(job.end_time)
    took = f" after {out.duration((end - start).total_seconds())}" if start and end else ""
    out.say(f"{job.job_id} {out.state_name(job)}{took}")
    if job.state == job.SUCCEEDED:
        out.say(f"output: {job.output_uri}")
        return
    if why := out.explanation(job):
        out.say(why)
    if job.state == job.FAILED and job.attempts:
        out.say(f"its log: trainplane logs {job.job_id}")


@contextlib.asynccontextmanager
async def _explaining(client: Client, job_id: str, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Tell why the job waits, and again when the reason changes, as long as the context lasts."""
    task = asyncio.create_task(_explain(client, job_id, tell), name="explain waiting")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _explain(client: Client, job_id: str, tell: Callable[[str], None]) -> None:
    from trainplane.errors import TrainplaneError

    told = ""
    while True:
        # The watch itself says what is wrong with the connection or the call.
        with contextlib.suppress(TrainplaneError):
            job = await client.get(job_id)
            if job.state == job.QUEUED and job.pending_reason not in ("", told):
                told = job.pending_reason
                await explain_waiting(client, job, tell)
            if job.end_time.seconds:
                return
        await asyncio.sleep(_LOOK_SECONDS if told else _FIRST_LOOK_SECONDS)


async def explain_waiting(client: Client, job: Job, tell: Callable[[str], None]) -> None:
    """Tell why a queued job waits, and what would help."""
    place = f" ({job.queue_position}. in the queue)" if job.queue_position else ""
    tell(f"waits: {job.pending_reason}{place}")
    tell(f"what helps: {advice(job, await client.nodes())}")


async def placed_or_explained(client: Client, job: Job) -> Job:
    """The job once it is placed, has ended or has a reason to wait; after two seconds, as it then is."""
    for _ in range(_FIRST_LOOKS):
        if job.state != job.QUEUED or job.pending_reason:
            break
        await asyncio.sleep(_FIRST_LOOK_SECONDS)
        job = await client.get(job.job_id)
    return job
