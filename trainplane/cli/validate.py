"""`validate`: what a submit would come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainplane.cli import output as out
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit, connected
from trainplane.cli.submit import RequestFile  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from trainplane.client import Client
    from trainplane.v1.preflight_pb2 import Check, Estimate, Preflight

_UNITS = ("", "k", "M", "G", "T")


def validate(file: RequestFile, output: Output = Format.TEXT) -> None:
    """Tell what a submit would come to, and store nothing.

    The request is judged, a node looks at model, datasets and output with the job's own credentials, and the training
    is estimated. Exits 3 where a submit would be refused, 1 where the job could not run or would fail.
    """

    async def work(client: Client) -> Exit:
        from trainplane.cli import request_file

        found = await client.validate(request_file.read(file))
        if output is Format.JSON:
            out.print_json(out.as_dict(found))
        else:
            show(found)
        return verdict(found)

    connected(work, output=output)


def verdict(found: Preflight) -> Exit:
    """How the command ends."""
    if not found.valid:
        return Exit.REFUSED
    failed = any(check.status == check.FAILED for check in found.checks)
    return Exit.JOB_FAILED if failed or not found.feasible else Exit.DONE


def show(found: Preflight) -> None:
    """Print it for people: the verdict last, so that it stands at the prompt."""
    for warning in found.warnings:
        out.say_aside(out.warning_line(warning))
    if not found.valid:
        for each in found.violations:
            out.say(f"{each.field or 'the body'}: {each.description} ({each.reason})")
    if found.checks:
        out.print_table(("CHECK", "", "BY", "WHY"), [_row(check) for check in found.checks])
        out.say()
    if found.HasField("estimate"):
        out.print_fields(_estimate(found.estimate))
        out.say()
    out.say(_verdict_line(found))


def _row(check: Check) -> tuple[str, ...]:
    status = check.Status.Name(check.status)
    return (check.name, status, check.node or "control plane", out.explanation(check))


def _estimate(estimate: Estimate) -> list[tuple[str, str]]:
    rows = [
        ("parameters", "parameters", _count),
        ("trained", "trainable_parameters", _count),
        ("memory of a device", "gpu_memory_bytes", _size),
        ("steps", "steps", lambda steps: f"{steps}"),
        ("tokens", "tokens", _count),
        ("time", "seconds", out.duration),
        ("disk", "disk_bytes", _size),
    ]
    shown = []
    for name, field, words in rows:
        known = estimate.HasField(field)
        part = ", of a sharded model" if field == "gpu_memory_bytes" and estimate.sharded else ""
        value = (
            f"about {words(getattr(estimate, field))}{part}" if known else f"unknown: {estimate.unknown.get(field, '')}"
        )
        exact = field in {"parameters", "trainable_parameters", "steps"}
        shown.append((name, value.removeprefix("about ") if known and exact else value))
    return shown


def _verdict_line(found: Preflight) -> str:
    if not found.valid:
        return "not valid: a submit would be refused"
    if not found.feasible:
        return f"valid, but no known node can run it: {found.infeasible_reason}"
    failed = [check.name for check in found.checks if check.status == check.FAILED]
    if failed:
        return f"valid, but it would fail: {', '.join(failed)}"
    return f"valid; it would wait: {found.pending_reason}" if found.pending_reason else "valid"


def _count(value: float) -> str:
    """`1.23M`; whole below a thousand."""
    scale = 0
    while abs(value) >= 1000 and scale + 1 < len(_UNITS):
        value /= 1000
        scale += 1
    return f"{value:.3g}{_UNITS[scale]}" if scale else f"{value:g}"


def _size(value: float) -> str:
    """Bytes in GiB, or MiB below one."""
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
