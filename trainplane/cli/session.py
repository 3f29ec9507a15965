"""What every command that calls the control plane does alike: connect, and turn the outcome into an exit status.

    0 what was asked happened · 1 the job failed · 2 wrong usage · 3 refused · 4 unreachable · 130 interrupted

An expected error is printed with its remedy, never as a traceback.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from trainplane.cli.output import Format, say_aside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trainplane.client import Client
    from trainplane.errors import TrainplaneError

#: How long a command waits for a control plane that does not answer.
PATIENCE = timedelta(seconds=5)


class Exit(IntEnum):
    """The statuses a command ends with."""

    DONE = 0
    JOB_FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


def connected(
    work: Callable[[Client], Awaitable[Exit]], *, output: Format, on_interrupt: Callable[[], str] = str
) -> NoReturn:
    """Run `work` with a client, and end the process with its status.

    Args:
        work: the command.
        output: how errors are printed.
        on_interrupt: what to say at Ctrl-C.
    """
    from trainplane.errors import TrainplaneError

    try:
        status = asyncio.run(_with_client(work))
    except TrainplaneError as error:
        print_error(error, output=output)
        status = _status(error)
    except KeyboardInterrupt:
        if goodbye := on_interrupt():
            sys.stderr.write(goodbye + "\n")
        status = Exit.INTERRUPTED
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        usage_error(str(error))
    raise typer.Exit(status)


async def _with_client(work: Callable[[Client], Awaitable[Exit]]) -> Exit:
    from trainplane.client import Client, ClientSettings
    from trainplane.sdk.retrying import RetryPolicy

    async with Client(settings=ClientSettings(retry=RetryPolicy(budget=PATIENCE))) as client:
        return await work(client)


def usage_error(message: str) -> NoReturn:
    """End the process: the command was called wrongly."""
    say_aside(f"error: {message}")
    raise typer.Exit(Exit.USAGE)


def _status(error: TrainplaneError) -> Exit:
    from trainplane.errors import Unavailable

    return Exit.UNREACHABLE if isinstance(error, Unavailable) else Exit.REFUSED


def print_error(error: TrainplaneError, *, output: Format) -> None:
    """Say on stderr what is wrong and what would help, every violation on a line of its own."""
    from trainplane.errors import InvalidRequest, JobExists, ServerError, Unauthenticated, Unavailable

    if output is Format.JSON:
        sys.stderr.write(json.dumps(_error_fields(error)) + "\n")
        return
    say_aside(f"error: {error}" + (f" ({error.reason})" if error.reason else ""))
    match error:
        case InvalidRequest():
            for violation in error.violations:
                say_aside(f"  {violation.field or 'the whole body'}: {violation.description} ({violation.reason})")
        case JobExists():
            for path in error.differing:
                say_aside(f"  differs: {path}")
            say_aside("  take another id with --job-id X or --new-id")
        case Unauthenticated():
            say_aside("  set TRAINPLANE_TOKEN to a token of this installation")
        case Unavailable():
            say_aside("  start one here with `trainplane up`, or set TRAINPLANE_ADDRESS to host:port of another")
        case ServerError() if error.request_id:
            say_aside(f"  the control plane's log has it under request {error.request_id}")


def _error_fields(error: TrainplaneError) -> dict[str, Any]:
    from trainplane.errors import InvalidRequest, JobExists

    fields: dict[str, Any] = {"kind": type(error).__name__, "reason": error.reason, "message": str(error)}
    if error.request_id:
        fields["request_id"] = error.request_id
    if isinstance(error, InvalidRequest):
        fields["violations"] = [
            {"field": each.field, "reason": each.reason, "description": each.description} for each in error.violations
        ]
    if isinstance(error, JobExists):
        fields["differing"] = list(error.differing)
    return {"error": fields}
