"""Ships TensorBoard's event files to `artifacts.log_uri` as `tensorboard/<name>`, whole, again whenever they grew.

All attempts of a job have their files in one directory there, which TensorBoard reads as one run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agent.uploader.failures import from_os_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.storage.protocol import Storage

DIRECTORY = "tensorboard"
EVERY_SECONDS = 30.0
BYTES_PER_SECOND = 256 * 1024
"""A large file is shipped less often: on the average no more than this."""


class EventFileShipper:
    """Ships the event files of one attempt.

    Args:
        storage: of the log URI.
        directory: the attempt's.
        clock: monotonic seconds.
    """

    def __init__(self, storage: Storage, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._directory = directory / DIRECTORY
        self._clock = clock
        self._shipped: dict[str, int] = {}
        self._due_at = 0.0

    def ship(self, *, now: bool = False) -> None:
        """Ship what grew, if it is time to, or `now`.

        Raises:
            UploadError: it could not be stored; try again.
        """
        if not now and self._clock() < self._due_at:
            return
        for path in sorted(self._directory.glob("events.*")):
            if path.stat().st_size == self._shipped.get(path.name):
                continue
            data = path.read_bytes()
            try:
                self._storage.put_bytes(f"{DIRECTORY}/{path.name}", data)
            except OSError as error:
                raise from_os_error(error, what="shipping event files to artifacts.log_uri") from error
            self._shipped[path.name] = len(data)
            self._due_at = self._clock() + max(EVERY_SECONDS, len(data) / BYTES_PER_SECOND)
