"""The first line of `reports.jsonl`, written before anything else is imported.

An agent tells a trainer that started from one that never ran by this line, and `make bench` measures it: hence no
import here that the interpreter has not made already.
"""

import os
import time


def timestamp() -> str:
    """Now, as every report says it: RFC 3339, UTC, microseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds // 1000:06d}Z"


def append_started(attempt_directory: str) -> None:
    """Append `{"kind":"started"}` to the attempt's reports with one write.

    Raises:
        OSError: the directory is not there or cannot be written; nothing can be reported then.
    """
    descriptor = os.open(
        attempt_directory + "/reports.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    line = f'{{"kind":"started","time":"{timestamp()}","pid":{os.getpid()}}}\n'
    os.write(descriptor, line.encode("ascii"))
    os.close(descriptor)
