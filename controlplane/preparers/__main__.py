"""`python -m controlplane.preparers`: prepares submits for the control plane that started it, until its stdin ends.

The first frame on stdin is the setting-up (rules, master key), each further one a list of submits; each is answered by
one frame, in order. The key comes this way so that it is on no command line and in no environment.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from controlplane.clock import SystemClock
from controlplane.domain.errors import InvalidSpec
from controlplane.engine.preparing import Preparer
from controlplane.preparers import frames
from controlplane.rpc.created import CreatedAnswer
from controlplane.vault import MasterVault

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> int:
    """Serves; 0 at the end of stdin."""
    # Ctrl-C and SIGTERM go to the whole group; whoever started this ends it by closing its stdin, or by dying.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Nothing that prints may get between the frames.
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)  # a frame is one write
    os.dup2(2, 1)
    incoming = _frames(sys.stdin.buffer)
    setup = next(incoming, None)
    if setup is None:
        return 0
    rules, master_key = setup
    vault = MasterVault(master_key)
    prepare = Preparer(rules=rules, vault=vault, render=CreatedAnswer(vault), now_us=SystemClock().now_us)
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    with contextlib.suppress(BrokenPipeError):
        for batch in incoming:
            out.write(frames.packed(_answered(prepare, batch)))
            out.flush()
    return 0


def _frames(stream: BinaryIO) -> Iterator[Any]:
    while len(header := stream.read(frames.HEADER.size)) == frames.HEADER.size:
        yield frames.unpacked(stream.read(*frames.HEADER.unpack(header)))


def _answered(prepare: Preparer, batch: list[tuple[Any, ...]]) -> list[tuple[bool, Any]]:
    """(True, what was prepared) or (False, violations) of each. What is raised ends the child, and is met in place."""
    return [
        (False, frames.refused_values(outcome))
        if isinstance(outcome, InvalidSpec)
        else (True, frames.prepared_values(outcome))
        for outcome in prepare.several([frames.asked_of(values) for values in batch])
    ]


if __name__ == "__main__":
    sys.exit(main())
