"""Ships the audit of an attempt's data to `artifacts.log_uri` as `attempt-1/audit.json`, when it is there.

Each attempt reads the data anew, and another may find another file: so each has its own. It does not wait for the
output, for a job that fails has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.uploader.failures import from_os_error

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage

NAME = "audit.json"


class AuditShipper:
    """Ships the audit of one attempt, once; a child that comes later ships it again.

    Args:
        storage: of the log URI.
        directory: the attempt's.
        attempt: its number.
    """

    def __init__(self, storage: Storage, directory: Path, attempt: int) -> None:
        self._storage = storage
        self._path = directory / NAME
        self._target = f"attempt-{attempt}/{NAME}"
        self._shipped = False

    def ship(self) -> None:
        """Ship it, if it is there and was not shipped.

        Raises:
            UploadError: it could not be stored; try again.
        """
        if self._shipped:
            return
        try:
            # The trainer renames it into place: it is whole.
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        try:
            self._storage.put_bytes(self._target, data)
        except OSError as error:
            raise from_os_error(error, what="shipping the audit to artifacts.log_uri") from error
        self._shipped = True
