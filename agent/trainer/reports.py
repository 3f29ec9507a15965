"""What a trainer says: JSON lines appended to the attempt's `reports.jsonl` (docs/trainer-contract.md).

A line's number is its sequence, so a line once begun is always ended, and after a terminal report nothing follows.
"""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

from agent.trainer.first_line import timestamp

if TYPE_CHECKING:
    from os import PathLike

TERMINAL_KINDS = frozenset({"failed", "finished"})
MESSAGE_LIMIT = 4000
"""Characters of a message; the rest is in the log. Keeps a report far below the wire's batch bound."""


class Reports:
    """Append-only writer of one attempt's reports; safe to call from several threads.

    After `failed` or `finished` every further report is dropped: the first terminal report is the last line.
    """

    def __init__(self, attempt_directory: str | PathLike[str]) -> None:
        self.directory = os.fspath(attempt_directory)
        """The attempt's."""
        self._descriptor = os.open(
            os.path.join(attempt_directory, "reports.jsonl"),  # noqa: PTH118 - the fake starts without pathlib
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        self._lock = threading.Lock()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether a terminal report has been written."""
        return self._ended

    def append(self, kind: str, **fields: Any) -> bool:
        """Append one report with a single `write(2)`; False if a terminal report stands already.

        Raises:
            ValueError: a field is NaN or infinite (not JSON).
            OSError: the disk refused the line.
        """
        line = json.dumps(
            {"kind": kind, "time": timestamp(), **fields}, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        )
        encoded = line.encode("utf-8", "replace") + b"\n"
        with self._lock:
            if self._ended:
                return False
            self._ended = kind in TERMINAL_KINDS
            if os.write(self._descriptor, encoded) < len(encoded):
                os.write(self._descriptor, b"\n")
        return True

    def tear(self, text: str) -> None:
        """Write half a line, as a crash in mid-write leaves it; the sequence counts it. For the fake trainer."""
        with self._lock:
            os.write(self._descriptor, text.encode("utf-8") + b"\n")

    def phase(self, name: str, message: str = "") -> None:
        """Say what the trainer does from now on, or what there is to say of what it does."""
        said = {"message": message[:MESSAGE_LIMIT]} if message else {}
        self.append("phase", phase=name, **said)

    def warning(self, reason: str, message: str) -> None:
        """Tell the user something that does not stop the training."""
        self.append("warning", reason=reason, message=message[:MESSAGE_LIMIT])

    def checkpoint(self, step: int, *, size_bytes: int, manifest_digest: str, oldest_step: int) -> None:
        """Say that the checkpoint of a step is whole and on disk, and which is the oldest that is kept beside it."""
        self.append(
            "checkpoint", step=step, size_bytes=size_bytes, manifest_digest=manifest_digest, oldest_step=oldest_step
        )

    def failed(self, reason: str, message: str) -> bool:
        """End with a failure; False if the end was already told."""
        return self.append("failed", reason=reason, message=message[:MESSAGE_LIMIT])

    def finished(self) -> bool:
        """End well: `output/` is complete and on disk. False if the end was already told."""
        return self.append("finished")


class Unheard(Reports):
    """What the ranks other than rank 0 report to: nothing is written."""

    def __init__(self) -> None:
        return

    @property
    def ended(self) -> bool:
        """Never: rank 0 and the leader speak."""
        return False

    def append(self, kind: str, **fields: Any) -> bool:  # noqa: ARG002 - dropped
        """Drop it."""
        return False
