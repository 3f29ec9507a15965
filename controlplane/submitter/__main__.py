"""`python -m controlplane.submitter`: takes submits for the control plane that started it, until its stdin ends.

The first frame on stdin is the setting-up (rules, master key, database), each further one what is known of waits and a
list of submits; each is answered by one frame, in order, once all that it has stored is on disk. Key and URL come this
way so that they are on no command line and in no environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from controlplane.clock import SystemClock
from controlplane.domain.errors import InvalidSpec
from controlplane.engine.preparing import Preparer
from controlplane.engine.storing import store
from controlplane.engine.waits import KnownWaits
from controlplane.rpc.created import CreatedAnswer
from controlplane.store import SqliteOptions, open_store
from controlplane.submitter import frames
from controlplane.vault import MasterVault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controlplane.engine.ports import Store
    from controlplane.engine.preparing import Prepared

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serves; 0 at the end of stdin."""
    # Ctrl-C and SIGTERM go to the whole group; whoever started this ends it by closing its stdin, or by dying.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Who starts in that one's place must not meet a writer that nobody knows of.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Nothing that prints may get between the frames.
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)  # a frame is one write
    os.dup2(2, 1)
    incoming = _frames(sys.stdin.buffer)
    setup = next(incoming, None)
    if setup is None:
        return 0
    with contextlib.suppress(BrokenPipeError):
        asyncio.run(_serve(setup, incoming, out))
    return 0


async def _serve(setup: tuple[Any, bytes, str], incoming: Iterator[Any], out: BinaryIO) -> None:
    """Nothing else runs on this loop: it may wait for stdin."""
    rules, master_key, url = setup
    vault = MasterVault(master_key)
    prepare = Preparer(rules=rules, vault=vault, render=CreatedAnswer(vault), now_us=SystemClock().now_us)
    waits = KnownWaits()
    database = await open_store(url, sqlite=SqliteOptions(commit_on="loop"), guest=True)
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        for told, submits in incoming:
            if told is not None:
                waits.learn(told)
            out.write(frames.packed(await _answered(database, prepare, waits, submits)))
            out.flush()
    finally:
        await database.close()


def _frames(stream: BinaryIO) -> Iterator[Any]:
    while len(header := stream.read(frames.HEADER.size)) == frames.HEADER.size:
        yield frames.unpacked(stream.read(*frames.HEADER.unpack(header)))


async def _answered(
    database: Store, prepare: Preparer, waits: KnownWaits, submits: list[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """An answer for each. Whatever is raised ends the child: it is met in place."""
    judged = [_judged(prepare, values) for values in submits]
    prepared = [each for each in judged if not isinstance(each, InvalidSpec)]
    pending = waits.of(each.new for each in prepared)
    outcomes = iter(await database.write(lambda tx: store(tx, prepared, pending=pending)) if prepared else [])
    return [
        frames.invalid_values(each)
        if isinstance(each, InvalidSpec)
        else frames.answer_values(each, next(outcomes), pending.get(each.new.job.uid, ""))
        for each in judged
    ]


def _judged(prepare: Preparer, values: tuple[Any, ...]) -> Prepared | InvalidSpec:
    try:
        return prepare(frames.asked_of(values))
    except InvalidSpec as error:
        return error


if __name__ == "__main__":
    sys.exit(main())
