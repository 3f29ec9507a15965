"""`trainplane up` itself, with fake children in place of the real ones.

    python fake_up.py DATA_DIR [NAME=KNOB,KNOB …] [--port N] [--interrupt-at N]

Children first, second and third; each is ready when the journal (`DATA_DIR.journal`) says so.
`--interrupt-at N` sends itself Ctrl-C at the N-th of its moments: before everything, when the programs are made, and
whenever a child is asked whether it is ready (the first time just after its start).
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trainplane.cli.output import Format
from trainplane.cli.up import run
from trainplane.up.children import Program
from trainplane.up.leftovers import MARKER
from trainplane.up.settings import Ports, UpSettings

if TYPE_CHECKING:
    from trainplane.up.layout import Layout

CHILD = Path(__file__).with_name("fake_child.py")


class Moments:
    """Counts them, and interrupts at one."""

    def __init__(self, *, interrupt_at: int) -> None:
        self._left = interrupt_at

    def pass_one(self) -> None:
        """One more has come."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def prepared(
    settings: UpSettings, layout: Layout, ports: Ports, *, knobs: dict[str, list[str]], moments: Moments
) -> list[Program]:
    """Three fake children."""
    moments.pass_one()
    journal = Path(f"{settings.data_dir}.journal")

    def program(name: str) -> Program:
        def is_noted() -> bool:
            return f"ready {name} " in (journal.read_text() if journal.exists() else "")

        async def is_ready() -> bool:
            moments.pass_one()
            return is_noted()

        return Program(
            name=name,
            argv=(sys.executable, "-P", str(CHILD), name, str(journal), *knobs.get(name, [])),
            log=layout.log(name),
            is_ready=is_ready,
            environment={**os.environ, MARKER: str(settings.data_dir)},
            start_within=timedelta(seconds=60),
            stop_within=timedelta(seconds=20 if "patient" in knobs.get(name, []) else 1),
        )

    return [program(name) for name in ("first", "second", "third")]


if __name__ == "__main__":
    data_dir, *rest = sys.argv[1:]
    interrupt_at = int(rest.pop(rest.index("--interrupt-at") + 1)) if "--interrupt-at" in rest else 0
    port = int(rest.pop(rest.index("--port") + 1)) if "--port" in rest else 0
    knobs = {name: given.split(",") for name, _, given in (each.partition("=") for each in rest if "=" in each)}
    settings = UpSettings(data_dir=Path(data_dir), ports=Ports(http=port, grpc=0, nats=0))
    moments = Moments(interrupt_at=interrupt_at)
    make = functools.partial(prepared, knobs=knobs, moments=moments)
    try:
        moments.pass_one()
        sys.exit(run(settings, output=Format.TEXT, prepared=make))
    except KeyboardInterrupt:
        sys.exit(130)
