"""Ships growing logs, every rank's, to `artifacts.log_uri` as `attempt-1/rank-0/000001.log` and so on.

A segment is cut at 1 MiB or after 10 s. `segments.json` in the attempt's directory says how far each rank's log is, so
a new child goes on there; a segment that was stored but not noted is stored once more under the same name, with at
least the same bytes.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent import ranks
from agent.uploader.failures import UploadError, from_os_error

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage
    from agent.uploader.audit_file import AuditShipper
    from agent.uploader.event_files import EventFileShipper

SEGMENT_BYTES = 1024 * 1024
SEGMENT_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_TRIES_AT_THE_END = 5


@dataclass(frozen=True, slots=True)
class _Shipped:
    """How far one rank's log is: bytes stored, and the number of the segment that comes next."""

    offset_bytes: int = 0
    next: int = 1


class SegmentShipper:
    """Ships the logs of one attempt.

    Args:
        storage: of the log URI.
        directory: the attempt's.
        attempt: its number.
    """

    def __init__(self, storage: Storage, directory: Path, attempt: int) -> None:
        self._storage = storage
        self._directory = directory
        self._state = directory / "segments.json"
        self._prefix = f"attempt-{attempt}"
        self._shipped = self._load()

    def ship(self, *, at_least_bytes: int = 1) -> bool:
        """Ship one segment of each rank's log that grew by so much; whether any did.

        Raises:
            UploadError: it could not be stored; try again.
        """
        moved = [self._ship_one(rank, path, at_least_bytes) for rank, path in ranks.logs(self._directory).items()]
        return any(moved)

    def _ship_one(self, rank: int, log: Path, at_least_bytes: int) -> bool:
        shipped = self._shipped.get(rank, _Shipped())
        with log.open("rb") as stream:
            stream.seek(shipped.offset_bytes)
            data = stream.read(SEGMENT_BYTES)
        if len(data) < at_least_bytes:
            return False
        try:
            self._storage.put_bytes(f"{self._prefix}/rank-{rank}/{shipped.next:06}.log", data)
            self._shipped[rank] = replace(shipped, offset_bytes=shipped.offset_bytes + len(data), next=shipped.next + 1)
            self._save()
        except OSError as error:
            raise from_os_error(error, what="shipping the log to artifacts.log_uri") from error
        return True

    def _load(self) -> dict[int, _Shipped]:
        try:
            state = json.loads(self._state.read_bytes())
            return {int(rank): _Shipped(int(at["offset_bytes"]), int(at["next"])) for rank, at in state.items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _save(self) -> None:
        state = {rank: {"offset_bytes": at.offset_bytes, "next": at.next} for rank, at in self._shipped.items()}
        aside = self._state.with_name(self._state.name + ".tmp")
        with aside.open("w", encoding="ascii") as stream:
            json.dump(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(self._state)


def ship_until_end_of_input(shipper: SegmentShipper, events: EventFileShipper, audit: AuditShipper) -> None:
    """Ship while stdin is open, then the rest: the agent closes it when the log is complete, or by dying.

    Raises:
        UploadError: the rest could not be stored.
    """
    last = time.monotonic()
    open_still = True
    while open_still:
        readable, _, _ = select.select([sys.stdin.buffer], [], [], _LOOK_SECONDS)
        open_still = not readable or bool(os.read(sys.stdin.fileno(), 1024))
        due = time.monotonic() - last >= SEGMENT_SECONDS
        try:
            while shipper.ship(at_least_bytes=1 if due else SEGMENT_BYTES):
                last = time.monotonic()
            audit.ship()
            events.ship()
        except UploadError as error:
            last = time.monotonic()
            print(error, file=sys.stderr)  # noqa: T201  # the child's log
    _ship_rest(shipper, events, audit)


def _ship_rest(shipper: SegmentShipper, events: EventFileShipper, audit: AuditShipper) -> None:
    for attempt in range(_TRIES_AT_THE_END):
        try:
            while shipper.ship():
                pass
            audit.ship()
            events.ship(now=True)
        except UploadError:
            if attempt == _TRIES_AT_THE_END - 1:
                raise
            time.sleep(2**attempt / 4)
        else:
            return
