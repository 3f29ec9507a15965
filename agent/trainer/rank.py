"""`python -m agent.trainer.rank <attempt directory> <rank>`: one of several ranks; started by the leader alone.

Its stdin is a socket to the leader: a reason and a message, as JSON, are the last words of a rank that fails; a byte
from the leader asks for a last checkpoint; at the socket's end the leader is gone, and so is the rank, whatever it
computes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent.trainer.reports import MESSAGE_LIMIT, Reports, Unheard
from agent.trainer.stacks import write_when_asked
from agent.trainer.stopping import STOP, TERMINATED_STATUS, Stopped
from agent.trainer.verdict import judge, log_to_stderr

if TYPE_CHECKING:
    from agent.trainer.verdict import Verdict

FAILED_STATUS = 1
LEADERLESS_STATUS = 3
LEADER = 0
"""The descriptor of the socket to the leader: stdin."""


def main(attempt_directory: str, rank: int) -> NoReturn:
    """Train as that rank, and end the process at once: libraries' threads could hang in an orderly exit."""
    threading.Thread(target=_follow_leader, name="leader", daemon=True).start()
    log_to_stderr()
    write_when_asked()
    directory = Path(attempt_directory)
    try:
        verdict = judge(lambda: _train(directory, rank))
    except Stopped:
        _end_stopped(rank)
    if verdict is not None:
        _say(verdict, rank)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if verdict is None else FAILED_STATUS)


def _train(directory: Path, rank: int) -> None:
    from agent.trainer import assignment, isolation
    from agent.trainer.training import train_attempt

    reports = Unheard() if rank else Reports(directory)
    document = assignment.read_document(directory)
    isolation.leave_out_libraries(quantizing=assignment.quantizes(document))
    train_attempt(document, directory, reports, rank=rank)
    if rank:
        # Rank 0 still writes the output. A rank that leaves breaks connections, so the leader ends this one, last.
        threading.Event().wait()


def _end_stopped(rank: int) -> NoReturn:
    if rank:
        # As above: rank 0 may still write the checkpoint.
        threading.Event().wait()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(TERMINATED_STATUS)


def _follow_leader() -> None:
    try:
        while os.read(LEADER, 4096):
            if not STOP.ask():
                os._exit(TERMINATED_STATUS)
    except OSError:
        pass
    os._exit(LEADERLESS_STATUS)


def _say(verdict: Verdict, rank: int) -> None:
    # What the trainer foresaw names the request's field; what it did not is told with the rank.
    message = verdict.message if verdict.own else f"rank {rank}: {verdict.message}"
    words = json.dumps({"reason": verdict.reason, "message": message[:MESSAGE_LIMIT]})
    os.write(LEADER, words.encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
