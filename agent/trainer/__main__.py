"""`python -m agent.trainer <attempt directory>`: train, and say how it went.

One rank trains in this process. Of several ranks this process is the leader (ADR 0010): it starts them, and writes the
terminal report when it knows that none of them is left.
"""

from __future__ import annotations

import sys

from agent.trainer import first_line

TYPE_CHECKING = False  # typing's own would be imported before the first report
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.trainer.reports import Reports
    from agent.trainer.verdict import Verdict

FAILED_STATUS = 1
USAGE_STATUS = 2


def main(attempt_directory: str) -> int:
    """Run the attempt in a process of its own: from here on it may be ended at any time.

    Returns:
        The exit status: 0 after `finished`, 1 after `failed`.
    """
    first_line.append_started(attempt_directory)

    from pathlib import Path

    from agent.trainer import warden
    from agent.trainer.reports import Reports

    directory = Path(attempt_directory)
    reports = Reports(directory)
    return attend(directory, reports, watch=lambda deadline_seconds: warden.start(reports, deadline_seconds))


def attend(directory: Path, reports: Reports, *, watch: Callable[[float | None], None]) -> int:
    """Train, and turn whatever happens into a terminal report.

    Args:
        directory: the attempt's.
        reports: gets `failed` or `finished`.
        watch: called with the deadline as soon as it is known, unless there are several ranks: their leader watches.

    Returns:
        The exit status.
    """
    from agent.trainer.verdict import judge, log_to_stderr

    log_to_stderr()
    verdict = judge(lambda: _train(directory, reports, watch))
    if verdict is not None:
        reports.failed(verdict.reason, verdict.message)
        return FAILED_STATUS
    reports.finished()
    return 0


def _train(directory: Path, reports: Reports, watch: Callable[[float | None], None]) -> Verdict | None:
    from agent.trainer import assignment

    document = assignment.read_document(directory)
    deadline_seconds = assignment.deadline_seconds(document)
    ranks = assignment.world_size(document)
    if ranks > 1:
        from agent.trainer.leader import lead

        return lead(directory, ranks, deadline_seconds)

    from agent.trainer.training import train_attempt

    watch(deadline_seconds)
    train_attempt(document, directory, reports)
    return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m agent.trainer <attempt directory>", file=sys.stderr)
        sys.exit(USAGE_STATUS)
    sys.exit(main(sys.argv[1]))
