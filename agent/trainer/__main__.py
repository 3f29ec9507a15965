"""`python -m agent.trainer <attempt directory>`: train, and say how it went.

One rank trains in this process. Of several ranks this process is the leader (ADR 0010): it starts them, and writes the
terminal report when it knows that none of them is left.
"""

from __future__ import annotations

import os
import sys

from agent.trainer import first_line

TYPE_CHECKING = False  # typing's own would be imported before the first report
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from agent.trainer.reports import Reports
    from agent.trainer.verdict import Verdict

FAILED_STATUS = 1
USAGE_STATUS = 2


def main(attempt_directory: str) -> int:
    """Run the attempt in a process of its own: from here on it may be ended at any time.

    Returns:
        The exit status: 0 after `finished`, 1 after `failed`, 143 where it was stopped.
    """
    first_line.append_started(attempt_directory)

    from pathlib import Path

    from agent.trainer import assignment, isolation, stacks, warden
    from agent.trainer.reports import Reports

    stacks.write_when_asked()

    directory = Path(attempt_directory)
    reports = Reports(directory)

    def own(document: Mapping[str, Any]) -> None:
        warden.start(reports, assignment.terms(document, directory))
        isolation.leave_out_libraries(quantizing=assignment.quantizes(document))

    return attend(directory, reports, own=own)


def attend(directory: Path, reports: Reports, *, own: Callable[[Mapping[str, Any]], None]) -> int:
    """Train, and turn whatever happens into a terminal report.

    Args:
        directory: the attempt's.
        reports: gets `failed` or `finished`.
        own: called with the assignment before the training, if it is this process that trains: what it does to the
            process as a whole. Of several ranks the leader keeps the deadline, and each is a process of its own.

    Returns:
        The exit status.
    """
    from agent.trainer import assignment
    from agent.trainer.stopping import Stopped
    from agent.trainer.verdict import judge, log_to_stderr
    from agent.trainer.warden import conclude

    log_to_stderr()
    try:
        verdict = judge(lambda: _train(directory, reports, own))
    except Stopped:
        return conclude(reports, assignment.terms(assignment.read_document(directory), directory))
    if verdict is not None:
        reports.failed(verdict.reason, verdict.message)
        return FAILED_STATUS
    reports.finished()
    return 0


def _train(directory: Path, reports: Reports, own: Callable[[Mapping[str, Any]], None]) -> Verdict | None:
    from agent.trainer import assignment

    document = assignment.read_document(directory)
    ranks = assignment.ranks_here(document)
    if assignment.world_size(document) > 1:
        from agent.trainer.leader import lead

        return lead(directory, ranks, assignment.terms(document, directory))

    from agent.trainer.training import train_attempt

    own(document)
    train_attempt(document, directory, reports)
    return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m agent.trainer <attempt directory>", file=sys.stderr)
        sys.exit(USAGE_STATUS)
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written. An orderly exit takes torch a second, in which the device stays charged.
    os._exit(status)
