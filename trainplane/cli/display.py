"""A job's events for people: a live line with a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol, Self

from trainplane.cli import output as out

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from trainplane.v1.job_event_pb2 import JobEvent


class Display(Protocol):
    """Shows events as they come; a context manager, so that a terminal is left as it was found."""

    def __enter__(self) -> Self:
        """Take the screen."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        ...

    def event(self, event: JobEvent) -> None:
        """Show one event."""
        ...

    def note(self, line: str) -> None:
        """Show a line that stays."""
        ...


def for_this_terminal() -> Display:
    """The live display if stdout is a terminal, else plain lines."""
    return LiveDisplay() if sys.stdout.isatty() else LineDisplay()


class LineDisplay:
    """One line an event: for pipes, files and CI.

    Args:
        say: writes a line.
    """

    def __init__(self, say: Callable[[str], None] = out.say) -> None:
        self._say = say

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def event(self, event: JobEvent) -> None:
        """Print it."""
        self._say(line(event))

    def note(self, line: str) -> None:
        """Print it."""
        self._say(line)


def line(event: JobEvent) -> str:
    """An event as one line without its number: time, state, phase, progress, why."""
    when = out.clock(event.time).partition(" ")[2]
    state = " ".join(part for part in (out.state_name(event), event.phase) if part)
    what = out.progress_text(event.progress) if event.type == "job.progress" else ""
    if event.type in ("job.checkpoint_saved", "job.warning"):
        what = event.type.removeprefix("job.").replace("_", " ")
    return "  ".join(part for part in (when, f"{state:<18}", what, out.explanation(event)) if part).rstrip()


class LiveDisplay:
    """A bar that follows the steps; changes of state stay above it as lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(highlight=False, emoji=False, markup=False),
            transient=True,
        )
        self._task: Any = self._progress.add_task("QUEUED", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def event(self, event: JobEvent) -> None:
        """Move the bar; print what is no progress."""
        figures = out.progress_text(event.progress)
        name = " ".join(part for part in (out.state_name(event), event.phase) if part)
        self._progress.update(self._task, description=out.visible(name))
        if figures:
            steps = event.progress
            self._progress.update(self._task, completed=steps.step, total=steps.total_steps, figures=figures)
        if event.type != "job.progress":
            self.note(line(event))

    def note(self, line: str) -> None:
        """Print it above the bar."""
        self._progress.console.print(out.visible(line), markup=False, soft_wrap=True)
