"""Checkpoints on their way: to shared storage while a trainer runs, and back before the next attempt's is started.

Each is stored by a child of its own, once it is whole; training never waits for it. A store that is away is told once,
as the warning CHECKPOINT_NOT_STORED, and asked again until it takes the newest.
"""

from __future__ import annotations

import asyncio
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
_FETCH_TRIES = 5
_FETCH_PAUSE_SECONDS = 1.0


class Checkpoints:
    """Of every attempt on this node."""

    def __init__(self, journal: Journal, uploader: Uploader) -> None:
        self._journal = journal
        self._uploader = uploader
        self._stored: dict[AttemptKey, int] = {}

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
                await self._store_newest(assignment)
        except (TimeoutError, UploadError) as error:
            _log.warning("last checkpoint not stored", job=assignment.key.uid, error=str(error) or "not in time")

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

    async def _store_newest(self, assignment: Assignment) -> None:
        key, directory = assignment.key, self._journal.directory(assignment.key)
        newest = next(iter(newest_first([directory / DIRECTORY])), None)
        if newest is None or int(newest.name) <= self._stored.get(key, 0):
            return
        step = await self._uploader.store_checkpoint(assignment, directory)
        if step:
            self._stored[key] = step
            _log.info("checkpoint stored", job=key.uid, attempt=key.number, step=step)

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
