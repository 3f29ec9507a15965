"""What commands print: text for people, JSON for programs.

Messages print as the HTTP API prints them: snake_case, every field that has no presence, absent secrets left out.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from trainplane.v1.job_pb2 import Job, Progress


class Format(StrEnum):
    """How a command prints."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="For people, or JSON (streams: one object a line).")]

#: Terminal control characters in what others wrote (logs, messages) are shown, not obeyed.
_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    | {0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
)


def visible(text: str) -> str:
    """The text without power over the terminal."""
    return text.translate(_VISIBLE)


def as_dict(message: Message) -> dict[str, Any]:
    """A message as the HTTP API's JSON."""
    from google.protobuf.json_format import MessageToDict

    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if not fields.get("webhook_signing_secret", True):
        del fields["webhook_signing_secret"]
    return fields


def print_json(value: object) -> None:
    """One indented JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_json_line(message: Message) -> None:
    """A message as one line of JSON, at once."""
    sys.stdout.write(json.dumps(as_dict(message), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(line: str = "") -> None:
    """A line for people, on stdout, at once."""
    sys.stdout.write(visible(line) + "\n")
    sys.stdout.flush()


def say_aside(line: str) -> None:
    """A line for people that is no result, on stderr."""
    sys.stderr.write(visible(line) + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; on a terminal they wrap to its width, elsewhere a row is always one line."""
    if not sys.stdout.isatty():
        lines = [tuple(columns), *(tuple(visible(cell).replace("\n", " ") for cell in row) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            say("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    Console(highlight=False, emoji=False, markup=False).print(table)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line; empty values are left out."""
    width = max((len(name) for name, value in fields if value), default=0)
    for name, value in fields:
        if value:
            say(f"{name:<{width}}  {value}")


def state_name(message: Any) -> str:
    """The bare name of a message's `state`."""
    return str(message.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[message.state].name)


def moment(timestamp: Timestamp) -> datetime | None:
    """A timestamp as aware UTC; None if it is unset."""
    if not timestamp.seconds:
        return None
    return datetime.fromtimestamp(timestamp.seconds + timestamp.nanos / 1e9, tz=UTC)


def clock(timestamp: Timestamp) -> str:
    """A timestamp in local time, to the second; empty if it is unset."""
    at = moment(timestamp)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""


def duration(seconds: float) -> str:
    """`4m05s`, `1h02m`, `12s`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def progress_text(progress: Progress) -> str:
    """`step 40/300  loss 1.920  3100 tokens/s  ETA 4m05s`, at last the evaluation's; empty before the first step."""
    if not progress.total_steps:
        return ""
    parts = [f"step {progress.step}/{progress.total_steps}", f"loss {progress.loss:.3f}"]
    if progress.HasField("eval_loss"):
        parts.append(f"eval loss {progress.eval_loss_before:.3f} -> {progress.eval_loss:.3f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:.0f} tokens/s")
    end = moment(progress.estimated_end_time)
    if end and progress.step < progress.total_steps:
        parts.append(f"ETA {duration((end - datetime.now(tz=UTC)).total_seconds())}")
    return "  ".join(parts)


def explanation(message: Any) -> str:
    """`REASON: message` of a job or an event, as far as it has them."""
    return ": ".join(part for part in (message.reason, message.message) if part)


def warning_line(warning: Any) -> str:
    """One of a job's warnings."""
    return f"warning: {warning.field}: {warning.description} ({warning.reason})"


def print_warnings(job: Job) -> None:
    """A job's warnings, on stderr."""
    for warning in job.warnings:
        say_aside(warning_line(warning))
