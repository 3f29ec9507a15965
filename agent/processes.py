"""Processes of this host that the agent did not write: told apart, watched, and found again through /proc.

A process is named by (pid, start time, boot id), because a pid alone is given away again. Descendants of a trainer are
found by the marker in their environment, by its session or its control group: a grandchild may have made a session of
its own, or cleared its environment, seldom both, and nobody leaves a group by accident. Linux only: /proc, pidfd,
`PR_SET_CHILD_SUBREAPER`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.run import AttemptKey, Process

MARKER = "TRAINPLANE_ATTEMPT"
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Stat:
    """What `/proc/<pid>/stat` says of one process."""

    pid: int
    state: str
    parent: int
    session: int
    start_ticks: int

    @property
    def dead(self) -> bool:
        """A zombie runs nothing and holds nothing but its number."""
        return self.state in {"Z", "X"}


@cache
def boot_id() -> str:
    """The kernel's boot id: another one proves that no process of before is left."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def become_subreaper() -> None:
    """Let orphaned descendants become this process' children, so that none escapes into init.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def stat(pid: int) -> Stat | None:
    """A process as it is now; None if there is none of that number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name is in parentheses and may itself hold parentheses and spaces.
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def identify(pid: int) -> Process | None:
    """The name of a process that lives now, or is an unreaped child."""
    found = stat(pid)
    return None if found is None else Process(pid, found.start_ticks, boot_id())


def lives(process: Process) -> bool:
    """Whether this very process, and not a later one of its number, still runs."""
    if process.boot_id != boot_id():
        return False
    found = stat(process.pid)
    return found is not None and not found.dead and found.start_ticks == process.start_ticks


def marked(pid: int, key: AttemptKey) -> bool:
    """Whether the process was started with the attempt's marker in its environment."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARKER}={key}".encode() in environment.split(b"\0")


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for a signal, which would end it otherwise."""
    return _has_signal(Path(f"/proc/{pid}/status"), number, "SigCgt:")


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for the process, or its handler runs, which blocks it in one of the threads meanwhile."""
    with contextlib.suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return any(_has_signal(task / "status", number, "SigPnd:", "ShdPnd:", "SigBlk:") for task in tasks)
    return False


def _has_signal(status: Path, number: signal.Signals, *sets: str) -> bool:
    try:
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    found = [int(line.partition(":")[2], 16) for line in lines if line.startswith(sets)]
    return any(each >> (number - 1) & 1 for each in found)


def members(
    key: AttemptKey, leader: Process | None, known: frozenset[Process], *, grouped: frozenset[int] = frozenset()
) -> frozenset[Process]:
    """Every process of the attempt that lives now, the agent's own excepted. Takes some ms: not on an event loop.

    Args:
        key: which attempt.
        leader: the attempt's session leader. Its session counts while the leader, dead or alive, still has its
            number, or a member that was seen before still lives in it: so long the number cannot be given away.
        known: members seen before.
        grouped: the pids in the attempt's control group.
    """
    numbers = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    everyone = [found for number in numbers if (found := stat(number))]
    living = [found for found in everyone if not found.dead and found.pid != os.getpid()]
    session = _session(leader, everyone, known)
    return frozenset(
        Process(found.pid, found.start_ticks, boot_id())
        for found in living
        if (session is not None and found.session == session) or found.pid in grouped or marked(found.pid, key)
    )


def _session(leader: Process | None, everyone: list[Stat], known: frozenset[Process]) -> int | None:
    if leader is None or leader.boot_id != boot_id():
        return None
    remembered = {(process.pid, process.start_ticks) for process in known}
    for found in everyone:
        if found.pid == leader.pid:
            return leader.pid if found.start_ticks == leader.start_ticks else None
        if found.session == leader.pid and (found.pid, found.start_ticks) in remembered:
            return leader.pid
    return None


def send_signal(process: Process, number: signal.Signals) -> None:
    """Signal this very process; nothing happens if it is gone. Safe against a pid that was given away again."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if lives(process):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


async def gone(process: Process) -> None:
    """Wait until the process has ended; it need not be a child. A zombie has ended. Can be cancelled."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    try:
        if lives(process):
            loop.add_reader(descriptor, lambda: _settle(ended))
            await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def reap_strays(known: frozenset[int]) -> None:
    """Reap dead children of other sessions than ours, except the known ones.

    These are shims, and orphans that came to us as their subreaper. The agent's other children stay in its session and
    are reaped by who started them.
    """
    own_session = os.getsid(0)
    for listing in Path("/proc/self/task").glob("*/children"):
        for child in map(int, listing.read_text(encoding="ascii").split()):
            found = stat(child)
            if found and found.dead and found.session != own_session and child not in known:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)
