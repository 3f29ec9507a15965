"""What others see of this process in /proc: its command line and its environment, written anew in place.

A forked process has both from its parent, although it is another program to everybody who looks: `ps`, and the search
for an attempt's processes by their marker. The kernel shows the memory that they stood in at the start, so what is
written there is seen. Linux only.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Index, counted after the name, of `arg_start`, `arg_end`, `env_start` and `env_end` in /proc/self/stat (proc(5)).
_REGIONS = slice(45, 49)


def show_command(argv: Sequence[str]) -> None:
    """Show this command line, cut off to the room that the true one took; `sys.argv` stays."""
    start, end, _, _ = _regions()
    shown = b"\0".join(argument.encode() for argument in argv)[: max(0, end - start - 1)]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def show_variable(name: str, value: str, *, room: int) -> None:
    """Show a variable's value in the environment; `os.environ` stays.

    Args:
        name: of a variable that the process was started with.
        value: at most `room` bytes.
        room: how long its first value was.

    Raises:
        LookupError: there is no such variable, or the value is too long.
    """
    _, _, start, end = _regions()
    shown = ctypes.string_at(start, end - start)
    begin = (b"\0" + shown).find(f"\0{name}=".encode())
    if begin < 0 or len(value.encode()) > room:
        raise LookupError(name)
    ctypes.memmove(start + begin + len(name) + 1, value.encode().ljust(room, b"\0"), room)


def _regions() -> tuple[int, int, int, int]:
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    arg_start, arg_end, env_start, env_end = map(int, fields[_REGIONS])
    return arg_start, arg_end, env_start, env_end
