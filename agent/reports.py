"""Sends what stands in the attempts' report files, in order, without a gap, and never twice for long.

The file is the durable copy and the line's number the sequence; so all that is kept here is how far the control plane
says it is (its answer is the truth, also when it goes back), and a window of lines read ahead. One request is in flight
at a time: while it is, the next lines gather in the files.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import TYPE_CHECKING

import structlog

from agent.inotify import Watches
from agent.ports import ControlPlane, Lines, NoAnswerError, Watermark

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from agent.run import AttemptKey

_log = structlog.get_logger()
BATCH_REPORTS = 500
BATCH_BYTES = 256 * 1024
_LOOK_SECONDS = 1.0
#: A batch that is not full begins at least this long after the one before: under load, batches grow instead of their
#: number. After a quiet moment nothing waits.
_PACE_SECONDS = 0.01
_SYNC_THREADS = 8
_BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


class ReportFile:
    """One attempt's `reports.jsonl`, read by complete lines. It need not exist yet."""

    def __init__(self, key: AttemptKey, path: Path) -> None:
        self.key = key
        self.applied = 0
        self.read = 0
        self._path = path
        self._descriptor = -1
        self._offset = 0
        self._window: list[bytes] = []
        self._window_bytes = 0
        self._synced = True

    def pending(self) -> Lines:
        """The lines read and not yet recorded."""
        return Lines(self.key, self.read - len(self._window) + 1, self._window)

    def read_ahead(self) -> bool:
        """Read complete lines until a batch is full; whether the file may have more."""
        more = True
        while more and len(self._window) < BATCH_REPORTS and self._window_bytes < BATCH_BYTES:
            more = self._read_some()
        return more

    def confirm(self, applied: int) -> None:
        """The control plane has recorded the lines up to `applied`; fewer than before makes it read again."""
        first = self.read - len(self._window) + 1
        if applied < first - 1:
            self._offset, self.read, self._window = 0, 0, []
        elif applied >= first:
            del self._window[: applied - first + 1]
        self._window_bytes = sum(map(len, self._window))
        self.applied = applied

    def lines(self) -> int:
        """At least the lines read, and more than those if the file has more."""
        return self.read + (size_bytes(self._path) > self._offset)

    def sync(self) -> None:
        """Put the lines read so far on disk. May block."""
        if not self._synced:
            self._synced = True
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read_some(self) -> bool:
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        data = os.pread(self._descriptor, BATCH_BYTES, self._offset)
        end = data.rfind(b"\n") + 1
        if end == 0:
            return len(data) == BATCH_BYTES and self._skip_oversized()
        lines = data[: end - 1].split(b"\n")
        room = BATCH_REPORTS - len(self._window)
        recorded = max(0, min(self.applied - self.read, len(lines)))
        taken = lines[: recorded + room]
        kept = taken[recorded:]
        self._offset += sum(map(len, taken)) + len(taken)
        self.read += len(taken)
        self._window += kept
        self._window_bytes += sum(map(len, kept))
        self._synced = self._synced and not kept
        return True

    def _skip_oversized(self) -> bool:
        """Pass over a line that is longer than a batch; it keeps its number and becomes unreadable."""
        position = self._offset
        while data := os.pread(self._descriptor, BATCH_BYTES, position):
            found = data.find(b"\n")
            if found >= 0:
                self._offset = position + found + 1
                self.read += 1
                if self.read > self.applied:
                    self._window.append(b"")
                return True
            position += len(data)
        return False


class ReportSender:
    """Sends the reports of every attempt that it follows.

    Args:
        control_plane: to whom.
        withheld: whether a trainer's `failed` is not to be told yet. Asked again about once a second.
    """

    def __init__(
        self, control_plane: ControlPlane, *, withheld: Callable[[AttemptKey], bool] = lambda _key: False
    ) -> None:
        self._control_plane = control_plane
        self._withheld = withheld
        self._files: dict[AttemptKey, ReportFile] = {}
        self._watches: Watches[AttemptKey] = Watches()
        self._unread: set[AttemptKey] = set()

    def follow(self, key: AttemptKey, directory: Path, *, applied: int) -> None:
        """Send the attempt's reports, from the first after `applied`. Repeatable."""
        if key not in self._files:
            self._files[key] = ReportFile(key, directory / "reports.jsonl")
            self._watches.add(directory, key)
        self._files[key].confirm(applied)
        self._unread.add(key)

    def forget(self, key: AttemptKey) -> None:
        """Send no more of it. Repeatable."""
        self._watches.remove(key)
        self._unread.discard(key)
        if file := self._files.pop(key, None):
            file.close()

    def lines(self, key: AttemptKey) -> int:
        """At least how many lines its file has: one more than were read if there is more; 0 where none is wanted."""
        file = self._files.get(key)
        return file.lines() if file else 0

    async def run(self) -> None:
        """Send for ever."""
        failures, began = 0, 0.0
        loop = asyncio.get_running_loop()
        while True:
            batch = self._collect()
            early = began + _PACE_SECONDS - loop.time()
            if batch and early > 0 and not self._full(batch):
                await asyncio.sleep(early)
                self._unread |= self._watches.pending() & self._files.keys()
                batch = self._collect()
            if not batch:
                self._unread |= (await self._watches.changed(_LOOK_SECONDS)) & self._files.keys() or set(self._files)
                continue
            began = loop.time()
            if await self._send(batch):
                failures = 0
            else:
                delay = _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)]
                failures += 1
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, no secret

    def close(self) -> None:
        """Let go of all files."""
        for key in list(self._files):
            self.forget(key)
        self._watches.close()

    def _collect(self) -> list[Lines]:
        """The next batch, filled in turn so that one busy attempt does not silence the others."""
        for key in list(self._unread):
            if not self._files[key].read_ahead():
                self._unread.discard(key)
        waiting = [lines for file in self._files.values() if (lines := self._sendable(file.pending())).lines]
        if not waiting:
            return []
        batch: list[Lines] = []
        reports, size = BATCH_REPORTS, BATCH_BYTES
        for position, part in enumerate(waiting):
            share = max(1, reports // (len(waiting) - position))
            taken = _fitting(part.lines[:share], size, at_least_one=not batch)
            if taken:
                batch.append(Lines(part.key, part.first_sequence, taken))
                reports -= len(taken)
                size -= sum(map(len, taken))
            if reports <= 0 or size <= 0:
                break
        # Who is in this batch comes last in the next.
        for part in batch:
            self._files[part.key] = self._files.pop(part.key)
        return batch

    def _sendable(self, pending: Lines) -> Lines:
        if pending.lines and _tells_failure(pending.lines[-1]) and self._withheld(pending.key):
            return Lines(pending.key, pending.first_sequence, pending.lines[:-1])
        return pending

    @staticmethod
    def _full(batch: list[Lines]) -> bool:
        return sum(len(part.lines) for part in batch) >= BATCH_REPORTS

    async def _send(self, batch: list[Lines]) -> bool:
        files = [self._files[part.key] for part in batch]
        try:
            # Some at once, so that the file system can put them all on disk with one flush of its journal.
            shares = [files[start::_SYNC_THREADS] for start in range(min(_SYNC_THREADS, len(files)))]
            await asyncio.gather(*(asyncio.to_thread(_sync_all, share) for share in shares))
            marks = await self._control_plane.report(batch)
        except NoAnswerError as error:
            _log.debug("reports not answered", error=str(error))
            return False
        except OSError as error:
            _log.warning("reports cannot be put on disk", error=str(error))
            return False
        if marks is None:
            return False
        self._apply(marks)
        return True

    def _apply(self, marks: Mapping[AttemptKey, Watermark]) -> None:
        for key, mark in marks.items():
            if mark.stale:
                _log.info("reports no longer wanted", job=key.uid, attempt=key.number, applied=mark.applied)
                self.forget(key)
            elif file := self._files.get(key):
                file.confirm(mark.applied)
                self._unread.add(key)


def size_bytes(path: Path) -> int:
    """A file's size; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tells_failure(line: bytes) -> bool:
    if b'"failed"' not in line:  # nearly always
        return False
    try:
        return bool(json.loads(line).get("kind") == "failed")
    except (ValueError, AttributeError):
        return False


def _sync_all(files: list[ReportFile]) -> None:
    for file in files:
        file.sync()


def _fitting(lines: Sequence[bytes], size: int, *, at_least_one: bool) -> list[bytes]:
    taken: list[bytes] = []
    for line in lines:
        size -= len(line)
        if size < 0 and not (at_least_one and not taken):
            break
        taken.append(line)
    return taken
