"""What a person reads when a trainer has ended badly: the exit status in words, and the end of its log."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from agent.checkpoint import DIRECTORY, newest_first, stored_below

if TYPE_CHECKING:
    from pathlib import Path

    from agent.cgroups import MemoryUse

_GIB = 1024**3
_HINTS = {
    signal.SIGKILL: "most likely for want of memory: see the kernel's log, or raise resources.memory_gb",
    signal.SIGSEGV: "a crash in native code",
    signal.SIGBUS: "most likely a full or failing disk, or too little /dev/shm",
    signal.SIGILL: "this CPU lacks an instruction that a library was built for",
}
_STATUS_HINTS = {
    125: "its control group could not be entered",
    126: "its program could not be executed",
    127: "its program was not found",
}


def exit_in_words(status: int | None, *, who: str = "the trainer") -> str:
    """An exit status, negative for a signal; None where nothing was left to say it."""
    if status is None:
        return f"{who} vanished without an exit status: it, or the shell above it, was killed"
    if status >= 0:
        hint = f" ({_STATUS_HINTS[status]})" if status in _STATUS_HINTS else ""
        return f"{who} ended with status {status}{hint}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"{who} was ended by signal {-status}"
    hint = f": {_HINTS[number]}" if number in _HINTS else ""
    return f"{who} was ended by {number.name}{hint}"


def crash(status: int | None, *, last_kind: str, log: str) -> str:
    """The message of a crash."""
    said = exit_in_words(status)
    if last_kind == "finished":
        said += ", after it had finished"
    elif status == 0:
        said += " without having finished"
    return f"{said}; the log's last lines:\n{log}" if log else f"{said}; its log is empty"


def out_of_memory(used: MemoryUse) -> str:
    """The message of an attempt of which the kernel killed a process for want of memory."""
    peak = f"at its peak it used {used.peak_bytes / _GIB:.2f} GiB"
    if used.limit_bytes is None:
        return (
            f"the memory of this node was used up and the kernel killed a process of the trainer; {peak}; ask for "
            "resources.memory_gb, so that so much is reserved"
        )
    return (
        f"resources.memory_gb: the trainer needed more than its {used.limit_bytes / _GIB:.4g} GiB and the kernel "
        f"killed a process of it; {peak}; raise resources.memory_gb, or lower tuning_parameters.max_sequence_length"
    )


def kept(directory: Path, *, output_uri: str, uid: str) -> str:
    """What is left of an attempt's training, to be said behind why it ended. Of an attempt without any process."""
    newest = next(iter(newest_first([directory / DIRECTORY])), None)
    if newest is None:
        return "; it has left no checkpoint"
    return f"; the state after step {int(newest.name)} is kept as a checkpoint{place_kept(output_uri, uid)}"


def place_kept(output_uri: str, uid: str) -> str:
    """Where checkpoints are to be found; its node alone where the output has no place."""
    return f" below {stored_below(output_uri, uid)}" if output_uri else " on its node"
