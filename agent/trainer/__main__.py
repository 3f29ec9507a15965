"""`python -m agent.trainer <attempt directory>`: train, and say how it went.

The one place where every exception ends: each becomes a `failed` report with a reason (failures.py) and the
exit status 1.
"""

from __future__ import annotations

import sys

from agent.trainer import first_line

TYPE_CHECKING = False  # typing's own would be imported before the first report
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.trainer.reports import Reports

FAILED_STATUS = 1
USAGE_STATUS = 2


def main(attempt_directory: str) -> int:
    """Run the attempt in a process of its own: from here on the warden may end it at any time.

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
        watch: called with the deadline as soon as it is known.

    Returns:
        The exit status.
    """
    import logging

    from agent.trainer import assignment, failures
    from agent.trainer.training import train_attempt

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    log = logging.getLogger("trainer")
    try:
        document = assignment.read_document(directory)
        watch(assignment.deadline_seconds(document))
        train_attempt(document, directory, reports)
    except Exception as error:
        reason, message = failures.describe(error)
        foreign = not isinstance(error, failures.TrainingFailure)
        log.log(logging.ERROR, "failed reason=%s %s", reason, message, exc_info=error if foreign else None)
        reports.failed(reason, message)
        return FAILED_STATUS
    reports.finished()
    log.info("finished")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m agent.trainer <attempt directory>", file=sys.stderr)
        sys.exit(USAGE_STATUS)
    sys.exit(main(sys.argv[1]))
