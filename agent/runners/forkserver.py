"""`python -m agent.runners.forkserver [MODULE…]`: imports the modules, and then forks a trainer whenever it is told to.

    agent ── socket, the server's stdin ── server
                                              └─ fork ─ (gone at once) ─ fork ─► shim, leads the attempt's session
                                                                                   └─ fork ─► trainer

It never computes, so it has one thread and no device open: a fork has all of it, and nothing of it is broken. It reads
no spec; what is forked is in the attempt's session, control group and environment before it reads one. A shim comes to
the agent as an orphan at once, as if it had spawned it. The server ends with the agent, when its stdin ends; what it
has forked lives on (docs/adr/0024).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from agent import titles
from agent.processes import MARKER

ORDER_LIMIT_BYTES = 1 << 17
MARKER_ROOM = 96
"""Bytes that the marker's first value takes: as many as an attempt's name may ever need."""
UNFIT_STATUS = 3
GROUP_STATUS = 125
OOM_SCORE = 500
"""If the host runs out of memory, the server is what is missed least."""
_OOM_FILE = "/proc/self/oom_score_adj"
_SHIM = str(Path(__file__).with_name("shim.py"))


def main(modules: list[str]) -> None:
    """Serve until the agent is gone; in a forked trainer, be that trainer."""
    line = socket.socket(fileno=os.dup(0))
    for name in filter(None, map(str.strip, modules)):
        importlib.import_module(name)
    why = unfit()
    line.send(json.dumps({"unfit": why} if why else {"ready": True}).encode())
    if why:
        sys.exit(UNFIT_STATUS)
    usual_score = _set_oom_score(str(OOM_SCORE))
    # What stands is shared with every trainer: a collection would write into all of it.
    gc.collect()
    gc.freeze()
    order = _serve(line, usual_score)
    if order is not None:
        _run(order)


def unfit(process: Path = Path("/proc/self")) -> str:
    """Why nothing may be forked from a process, in words; empty: it may.

    Args:
        process: its directory in /proc.
    """
    threads = len(list((process / "task").iterdir()))
    if threads != 1:
        return f"it has {threads} threads"
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one by which the directory was read
            opened = os.readlink(descriptor)  # noqa: PTH115 - as it stands
            if opened.startswith("/dev/nvidia"):
                return f"it has {opened} open"
    return ""


def _serve(line: socket.socket, usual_score: str) -> dict[str, Any] | None:
    """Fork for every order; returns the order in a trainer, and None at the agent's end."""
    while True:
        try:
            order = json.loads(line.recv(ORDER_LIMIT_BYTES) or b"null")
            if order is None:
                return None
            answer = _fork(order, usual_score)
            if answer is None:
                line.close()
                return order  # type: ignore[no-any-return]
            line.send(answer)
        except ConnectionError:
            return None


def _fork(order: dict[str, Any], usual_score: str) -> bytes | None:
    """The answer to an order; None in the trainer."""
    reading, writing = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        return json.dumps({"error": str(error)}).encode()
    if between:
        os.close(writing)
        with open(reading, "rb") as answers:  # noqa: PTH123 - a descriptor
            answer = answers.read()
        os.waitpid(between, 0)
        return answer or json.dumps({"error": "the forked process died"}).encode()
    os.close(reading)
    try:
        if os.fork():
            os._exit(0)
        trainer = _lead(order, usual_score, writing)
        if trainer:
            _become_shim(trainer, order)
    except (OSError, LookupError) as error:
        os.write(writing, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    return None


def _lead(order: dict[str, Any], usual_score: str, writing: int) -> int:
    """Lead the attempt's session: in its directory, its groups and its log. The trainer's pid, 0 in the trainer."""
    os.setsid()
    titles.show_variable(MARKER, order["key"], room=MARKER_ROOM)
    os.chdir(order["directory"])
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor, place in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    os.close(null)
    os.close(log)
    refused = not all(map(_enter, order["entries"]))
    _set_oom_score(usual_score)
    trainer = GROUP_STATUS if refused else os.fork()
    if trainer:
        os.write(writing, json.dumps({"pid": os.getpid()}).encode())
    os.close(writing)
    if refused:
        Path("exit").write_text(f"{GROUP_STATUS}\n", encoding="ascii")
        os._exit(GROUP_STATUS)
    return trainer


def _become_shim(trainer: int, order: dict[str, Any]) -> NoReturn:
    """Another program, for this process outlives its trainer, and would hold the memory of the server all along."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    argv = [sys.executable, "-I", "-S", _SHIM, str(trainer), order["directory"]]
    os.execve(argv[0], argv, {MARKER: order["key"]})  # noqa: S606 - no shell is wanted


def _enter(entry: str) -> bool:
    try:
        Path(entry).write_text("0", encoding="ascii")
    except OSError as error:
        sys.stderr.write(f"{entry}: {error}\n")
        return False
    return True


def _set_oom_score(score: str) -> str:
    """Set the score by which the kernel chooses whom to end, where it may be set; answers the one before."""
    with contextlib.suppress(OSError):
        before = Path(_OOM_FILE).read_text(encoding="ascii").strip()
        Path(_OOM_FILE).write_text(score, encoding="ascii")
        return before
    return "0"


def _run(order: dict[str, Any]) -> None:
    """Do what the interpreter does with such a command line; the process ends as it would."""
    argv = order["argv"]
    os.environ.clear()
    os.environ.update(order["environment"], **{MARKER: order["key"]})
    titles.show_command(argv)
    how, what, arguments = argv[1], argv[2], argv[3:]
    if how == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [how, *arguments]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})  # noqa: S102


if __name__ == "__main__":
    main(sys.argv[1:])
