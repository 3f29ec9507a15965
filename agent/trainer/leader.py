"""Leads the ranks of one attempt: starts them, and ends them all when one of them ends or it is told to (ADR 0010).

    leader ── socket pair, the rank's stdin ── rank 0   trains, appends phases, progress and metrics, writes output/
       │                                  └── rank 1…  train; what they say goes to logs/rank-<r>.log
       ├─ SIGTERM, deadline: a byte to each rank asks for a last checkpoint (`stopping.py`), within bounds
       └─ then, and at a rank's end: every other rank is killed and gone before the terminal report is written

The leader computes nothing and imports no library, so it has time to listen, and a single thread. What a rank writes to
its end of the pair are its last words; that the leader's end is closed, by whatever death, ends the rank.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from agent import wording
from agent.cgroups import Group
from agent.titles import show_command
from agent.trainer.isolation import PRELOADING
from agent.trainer.stopping import TERMINATED_STATUS
from agent.trainer.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.trainer.stopping import Terms

RENDEZVOUS = "rendezvous"
"""The file in the attempt's directory by which the ranks find each other."""

WORDS_LIMIT_BYTES = 1 << 16
TAIL_LINES = 12
TAIL_BYTES = 8192
_STOPPED = Verdict("", "")
"""A rank has ended because it was asked to."""
_STOPPED_ELSEWHERE = Verdict("PREEMPTED", "the ranks on another node were told to stop; the state until then is kept")
"""Of a gang: all ranks stop after the same step, whichever was asked."""


@dataclass(frozen=True, slots=True)
class _Rank:
    """One process; `line` is the leader's end of its socket pair."""

    number: int
    pid: int
    line: socket.socket


def lead(directory: Path, ranks: Sequence[int], terms: Terms) -> Verdict | None:
    """Train with these ranks, which are all or one node's of a gang; returns when none of them is left.

    Ends the process with 143 at SIGTERM, likewise when none is left. Call it from a process with one thread. Where rank
    0 is another node's, it is SIGTERM that ends a training that went well.

    Returns:
        None if rank 0 finished, and with it everything; else why not.

    Raises:
        OSError: a process cannot be started.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    (directory / RENDEZVOUS).unlink(missing_ok=True)
    crew: list[_Rank] = []
    try:
        for number in ranks:
            crew.append(_start(directory, number, len(ranks), crew))  # if one cannot be, those that run are ended
        overdue, verdict = _listen(directory, crew, terms)
    finally:
        _end(crew)
        (directory / RENDEZVOUS).unlink(missing_ok=True)
    if verdict is not _STOPPED:
        return verdict
    if overdue:
        return Verdict("DEADLINE_EXCEEDED", terms.exceeded())
    os._exit(TERMINATED_STATUS)


def _listen(directory: Path, crew: list[_Rank], terms: Terms) -> tuple[bool, Verdict | None]:
    """Wait until the attempt is over: whether that is for its deadline, and the verdict, `_STOPPED` if it was ended."""
    end, asked, overdue = time.monotonic() + terms.seconds, False, False
    while True:
        news = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, max(0.0, end - time.monotonic()))
        if news is not None and news.si_signo == signal.SIGCHLD:
            ended, verdict = _ended(directory, crew)
            if ended and verdict is _STOPPED and not asked:
                return False, _STOPPED_ELSEWHERE
            if ended:
                return overdue, verdict
            continue
        if news is None and (asked or not terms.patience_seconds):
            return overdue or not asked, _STOPPED
        if news is not None and not terms.checkpoint_wanted():
            return False, _STOPPED  # also if it was asked for before: a stop may turn into a cancel
        if not asked:  # an agent that was restarted says SIGTERM again
            asked, overdue = True, news is None
            end = time.monotonic() + terms.patience_seconds
            for rank in crew:
                with contextlib.suppress(OSError):  # it has just ended; SIGCHLD is next
                    rank.line.send(b"stop")


def _start(directory: Path, number: int, ranks: int, crew: list[_Rank]) -> _Rank:
    ours, theirs = socket.socketpair()
    environment = {"OMP_NUM_THREADS": str(_threads(ranks))}
    with theirs:
        if PRELOADING in sys.modules and len(os.listdir("/proc/self/task")) == 1:  # noqa: PTH208 - names alone
            # This process was forked from one that has imported everything, and has computed no more than that one.
            pid = os.fork()
            if not pid:
                # As long as a rank holds a leader's end, nobody learns that the leader is gone.
                for line in (ours, *(rank.line for rank in crew)):
                    line.close()
                os.dup2(theirs.fileno(), 0)
                theirs.close()
                _become_rank(directory, number, environment, own_log=bool(crew))
            return _Rank(number, pid, ours)
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
        if crew:  # the first one's log is the leader's, too
            log = directory / "logs" / f"rank-{number}.log"
            log.parent.mkdir(exist_ok=True)
            actions += [
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ]
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "agent.trainer.rank", str(directory), str(number)],
            {**os.environ, **environment},
            file_actions=actions,
            setsigmask=[],
        )
    return _Rank(number, pid, ours)


def _become_rank(directory: Path, number: int, environment: dict[str, str], *, own_log: bool) -> NoReturn:
    """Be what `python -m agent.trainer.rank` would be; its stdin is there."""
    from agent.trainer import rank

    if own_log:
        log = os.open(directory / "logs" / f"rank-{number}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    os.environ.update(environment)
    show_command([sys.executable, "-m", "agent.trainer.rank", str(directory), str(number)])
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    rank.main(str(directory), number)


def _threads(ranks: int) -> int:
    """OpenMP's threads for each rank: its share of the CPUs that the attempt has."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    cpus = int(said) if said.isdigit() else len(os.sched_getaffinity(0))
    return max(1, cpus // ranks)


def _ended(directory: Path, crew: list[_Rank]) -> tuple[bool, Verdict | None]:
    """Whether the attempt is over, and how. Ranks that have ended leave the crew."""
    verdicts = []
    finished = False
    for rank in list(crew):
        pid, status = os.waitpid(rank.pid, os.WNOHANG)
        if not pid:
            continue
        crew.remove(rank)
        code = os.waitstatus_to_exitcode(status)
        finished = finished or (rank.number == 0 and code == 0)
        if code == TERMINATED_STATUS:
            verdicts.append(_STOPPED)
        elif code or rank.number:
            # The others wait for rank 0: one that leaves before it, even with status 0, was ended by something.
            verdicts.append(_last_words(directory, rank, code))
        rank.line.close()
    if verdicts and not finished:
        # A rank that lost its connection to another says nothing for a while (group.py): who ends first is to blame.
        return True, min(verdicts, key=lambda verdict: verdict.reason == "TRAINER_CRASHED")
    return finished, None


def _last_words(directory: Path, rank: _Rank, code: int) -> Verdict:
    rank.line.setblocking(False)
    try:
        said = json.loads(rank.line.recv(WORDS_LIMIT_BYTES))
        return Verdict(str(said["reason"]), str(said["message"]))
    except (OSError, ValueError, LookupError, TypeError):
        used = Group.noted(directory).memory()
        if used is not None and used.kills:
            return Verdict("OUT_OF_MEMORY_HOST", wording.out_of_memory(used))
        words = wording.exit_in_words(code, who=f"rank {rank.number}")
    tail = _tail(directory / "logs" / f"rank-{rank.number}.log")
    said = f"{words}; its log's last lines:\n{tail}" if tail else f"{words}; its log is empty"
    return Verdict("TRAINER_CRASHED", said)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


def _end(crew: list[_Rank]) -> None:
    """Kill every rank that is left and wait until it is gone. They have nothing to put in order."""
    for rank in crew:
        os.kill(rank.pid, signal.SIGKILL)
    for rank in crew:
        os.waitpid(rank.pid, 0)
        rank.line.close()
    crew.clear()
