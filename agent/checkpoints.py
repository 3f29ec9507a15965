"""Checkpoints on their way: to shared storage while a trainer runs, and back before the next attempt's is started.

Each is stored by a child of its own, once it is whole; training never waits for it. A store that is away is told once,
as the warning CHECKPOINT_NOT_STORED, and asked again until it takes the newest. A trainer's failure is not told before
its newest is stored, or cannot be: the attempt that follows, and who reads of it, find it there (ADR 0029).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from agent.checkpoint import DIRECTORY, newest_first
from agent.journal import JournalError
from agent.uploader.failures import UploadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from agent.journal import Journal
    from agent.run import Assignment, AttemptKey
    from agent.uploader.child import Uploader

_log = structlog.get_logger()
_LOOK_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_REST_SECONDS = 30.0
_REST_PAUSE_SECONDS = 1.0
_LONGEST_WITHHELD_SECONDS = 90.0
"""For a trainer that has told its failure, and then does not end."""
_FETCH_TRIES = 5
_FETCH_PAUSE_SECONDS = 1.0


class Checkpoints:
    """Of every attempt on this node."""

    def __init__(self, journal: Journal, uploader: Uploader) -> None:
        self._journal = journal
        self._uploader = uploader
        self._stored: dict[AttemptKey, int] = {}
        self._attended: set[AttemptKey] = set()
        self._owed_since: dict[AttemptKey, float] = {}

    def attend(self, key: AttemptKey) -> None:
        """From now on it may owe a checkpoint, until `store_rest` or `let_go`. Repeatable."""
        self._attended.add(key)

    def let_go(self, key: AttemptKey) -> None:
        """It owes none any more. Repeatable."""
        self._attended.discard(key)
        self._owed_since.pop(key, None)

    def owes(self, key: AttemptKey) -> bool:
        """Whether its newest is still to be stored, and so its end not to be told yet."""
        if key not in self._attended or self._newest_unstored(key) is None:
            return False
        now = time.monotonic()
        return now - self._owed_since.setdefault(key, now) < _LONGEST_WITHHELD_SECONDS

    async def store(self, assignment: Assignment, report: Callable[[Mapping[str, Any]], None]) -> None:
        """Store each new one, for ever."""
        pause, told = _LOOK_SECONDS, False
        while True:
            await asyncio.sleep(pause)
            try:
                await self._store_newest(assignment)
            except UploadError as error:
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                if not told:
                    told = self._told(assignment.key, report, error)
            except OSError as error:  # no child can be started: the host's trouble, which passes or shows elsewhere
                pause = _LONGEST_PAUSE_SECONDS
                _log.warning("checkpoint not stored", job=assignment.key.uid, error=str(error))
            else:
                pause, told = _LOOK_SECONDS, False

    async def store_rest(self, assignment: Assignment) -> None:
        """The trainer is gone: store the newest, for up to 30 s."""
        try:
            async with asyncio.timeout(_REST_SECONDS):
                await self._store_newest_patiently(assignment)
        except (TimeoutError, UploadError, OSError) as error:
            _log.warning("last checkpoint not stored", job=assignment.key.uid, error=str(error) or "not in time")
        finally:
            self.let_go(assignment.key)

    async def fetch(self, assignment: Assignment) -> list[str]:
        """Bring the newest one here, this node's own first if it is as new; what to tell of it, in words."""
        self._journal.take_up_checkpoints(assignment.key)
        directory, tries = self._journal.directory(assignment.key), 0
        while True:
            tries += 1
            try:
                stored, told = await self._uploader.fetch_checkpoint(assignment, directory)
            except UploadError as error:
                _log.warning("checkpoint not fetched", job=assignment.key.uid, reason=error.reason, error=str(error))
                if error.lasting or tries >= _FETCH_TRIES:
                    return [f"checkpoints in shared storage cannot be had: {error}"]
                await asyncio.sleep(_FETCH_PAUSE_SECONDS * tries)
                continue
            self._stored[assignment.key] = stored
            return told

    def forget(self, key: AttemptKey) -> None:
        """It is over. Repeatable."""
        self._stored.pop(key, None)
        self.let_go(key)

    async def _store_newest(self, assignment: Assignment) -> None:
        key = assignment.key
        newest = self._newest_unstored(key)
        if newest is None:
            return
        step = await self._uploader.store_checkpoint(assignment, self._journal.directory(key))
        if step:
            # A broken one was passed over for an older, and is not looked at again; a newer may have come meanwhile.
            self._stored[key] = max(step, newest)
            _log.info("checkpoint stored", job=key.uid, attempt=key.number, step=step)

    async def _store_newest_patiently(self, assignment: Assignment) -> None:
        while True:
            try:
                return await self._store_newest(assignment)
            except UploadError as error:
                if error.lasting:
                    raise
            await asyncio.sleep(_REST_PAUSE_SECONDS)

    def _newest_unstored(self, key: AttemptKey) -> int | None:
        """The step of the newest here, if not the one stored last; perhaps an older one: what proves bad is removed."""
        newest = next(iter(newest_first([self._journal.directory(key) / DIRECTORY])), None)
        return None if newest is None or int(newest.name) == self._stored.get(key, 0) else int(newest.name)

    @staticmethod
    def _told(key: AttemptKey, report: Callable[[Mapping[str, Any]], None], error: UploadError) -> bool:
        _log.warning("checkpoint not stored", job=key.uid, attempt=key.number, reason=error.reason, error=str(error))
        words = f"training goes on, but its newest checkpoint is on its node alone for now: {error}"
        try:
            report({"kind": "warning", "reason": "CHECKPOINT_NOT_STORED", "message": words})
        except JournalError as refusal:
            _log.warning("warning not noted", error=str(refusal))
            return False
        return True
