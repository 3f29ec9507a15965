"""What the trainer says: lines of JSON, one `write(2)` each; and its end, told or asked for.

SIGTERM is blocked and awaited by a thread; so is the deadline. A loop that makes steps is asked for a last checkpoint
first (`asked`), for as long as the assignment gives it; then, and anywhere else at once, the thread ends the process,
whatever the main thread computes.
"""

import json
import os
import signal
import threading
import time

TYPE_CHECKING = False  # the first line is written before typing is imported
if TYPE_CHECKING:
    from typing import Any

TERMINATED_STATUS = 143
FAILED_STATUS = 1
MESSAGE_LIMIT = 4000
LONGEST_SECONDS = 10 * 365 * 86400.0


def started(attempt_directory: str) -> None:
    """Append the trainer's first line."""
    Reports(attempt_directory).append("started", pid=os.getpid())


class Reports:
    """Appends to `reports.jsonl`; after a terminal report nothing follows."""

    def __init__(self, attempt_directory: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(attempt_directory + "/reports.jsonl", flags, 0o600)
        self._heartbeat = attempt_directory + "/heartbeat"
        self._beat_at = 0.0
        self._directory = attempt_directory
        self._lock = threading.Lock()
        self._ended = False
        self.heeding = False
        """Whether a loop makes steps, and looks after each whether it is asked to end."""
        self.asked = False
        """Whether the loop is to end, after a last checkpoint; `end` is next."""
        self._over = ""
        """The message of the deadline, if it was that which asked."""

    def append(self, kind: str, **fields: "Any") -> bool:
        """One line; False after the terminal one."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds // 1000:06d}Z"
        line = json.dumps({"kind": kind, "time": now, **fields}, allow_nan=False, separators=(",", ":")) + "\n"
        with self._lock:
            if self._ended:
                return False
            self._ended = kind in ("failed", "finished")
            os.write(self._descriptor, line.encode())
        return True

    def beat(self) -> None:
        """The work gets on; to be said as often as one likes."""
        if time.monotonic() - self._beat_at >= 1:
            self._beat_at = time.monotonic()
            with open(self._heartbeat, "ab"):  # noqa: PTH123 - the first line is written before pathlib is imported
                os.utime(self._heartbeat)

    def phase(self, name: str, message: str = "") -> None:
        """What is done from now on."""
        self.append("phase", phase=name, **({"message": message} if message else {}))

    def warning(self, reason: str, message: str) -> None:
        """What the user should know; training goes on."""
        self.append("warning", reason=reason, message=message[:MESSAGE_LIMIT])

    def failed(self, reason: str, message: str) -> bool:
        """The end, if it was not told before."""
        return self.append("failed", reason=reason, message=message[:MESSAGE_LIMIT])

    def watch(self, deadline_seconds: float | None, grace_seconds: float) -> None:
        """End the process at SIGTERM and at the deadline. Call while there is one thread: others inherit its mask.

        Args:
            deadline_seconds: from now; None: none.
            grace_seconds: for the step that is being made, and a last checkpoint.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        seconds = LONGEST_SECONDS if deadline_seconds is None else min(max(0.0, deadline_seconds), LONGEST_SECONDS)
        threading.Thread(target=self._await, args=(seconds, grace_seconds), daemon=True).start()

    def end(self, step: int) -> int:
        """The end that was asked for, after the checkpoint of a step; the exit status."""
        if not self._over:
            return TERMINATED_STATUS
        self.failed("DEADLINE_EXCEEDED", f"{self._over}; the state after step {step} is kept as a checkpoint")
        return FAILED_STATUS

    def _await(self, seconds: float, grace: float) -> None:
        told = signal.sigtimedwait({signal.SIGTERM}, seconds) is not None
        if not told:
            self._over = (
                f"resources.max_duration_minutes: the {seconds:.0f} s that were left for this job at its start are over"
            )
        end = time.monotonic() + grace
        while self.heeding and not self._ended and grace and not (told and self._hurried()):
            self.asked = True
            told = signal.sigtimedwait({signal.SIGTERM}, max(0.0, end - time.monotonic())) is not None
            if not told:
                break
        if self._ended:
            return
        if not self._over or (told and self._hurried()):
            os._exit(TERMINATED_STATUS)
        if self.failed("DEADLINE_EXCEEDED", self._over):
            os._exit(FAILED_STATUS)

    def _hurried(self) -> bool:
        """Whether who stops the attempt wants no last checkpoint."""
        try:
            with open(self._directory + "/stop.json", "rb") as file:  # noqa: PTH123 - as above
                return not json.load(file).get("checkpoint", True)
        except (OSError, ValueError, AttributeError):
            return False
