"""Waits for a forked trainer and writes its exit status down, as `sh` does for one that was spawned.

A file to be run, with the trainer's pid and the attempt's directory: `python -I -S shim.py PID DIRECTORY`. The trainer
is its child, for this process forked it before it became this program; SIGTERM, SIGINT and SIGHUP are ignored already.
"""

import os
import sys


def main(trainer: int, directory: str) -> None:
    """Wait, however long it takes."""
    status = os.waitstatus_to_exitcode(os.waitpid(trainer, 0)[1])
    # A shell says 128 and the signal's number.
    said = f"{status if status >= 0 else 128 - status}\n"
    with open(directory + "/exit.tmp", "w", encoding="ascii") as file:  # noqa: PTH123 - starts without pathlib
        file.write(said)
    os.rename(directory + "/exit.tmp", directory + "/exit")  # noqa: PTH104


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
