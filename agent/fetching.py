"""The step FETCH: what an attempt needs from elsewhere comes here before its trainer starts.

    ask ─► FETCH ─► start       `phase` FETCHING_MODEL … PREPARING_DATA, `fetched`, then inputs.json (fsynced)

What may mend itself is tried again with growing pauses; a try that brought anything further starts the count anew, so a
large model over a bad line arrives. The time it takes is the job's: `max_duration_minutes` holds for it too.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from agent.failpoints import failpoint
from agent.inputs.failures import InputError
from agent.plan import DEADLINE_EXCEEDED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.journal import Journal
    from agent.run import Assignment
    from agent.uploader.fetcher import Fetched, Fetcher, Progress

_log = structlog.get_logger()
_TOLD_EVERY_SECONDS = 5.0
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, slots=True)
class FetchPace:
    """How patient a fetch is with what may mend itself: about a minute and a half."""

    tries: int = 8
    first_pause_seconds: float = 0.5
    last_pause_seconds: float = 30.0


class Fetching:
    """Carries the step out.

    Args:
        journal: where reports and `inputs.json` go.
        fetcher: starts the children.
        pace: how often, and after what pauses.
    """

    def __init__(self, journal: Journal, fetcher: Fetcher, pace: FetchPace | None = None) -> None:
        self._journal = journal
        self._fetcher = fetcher
        self._pace = pace or FetchPace()

    async def carry_out(
        self, assignment: Assignment, secrets: Mapping[str, str], report: Callable[[Mapping[str, Any]], None]
    ) -> Assignment:
        """Fetch, and note it; the assignment, with what is left of its time.

        Args:
            assignment: whose inputs.
            secrets: of the job, by path.
            report: appends a line to the attempt's reports.

        Raises:
            InputError: the attempt fails for this reason.
            JournalError: the disk takes no note; nothing has changed but what is in the cache.
        """
        key, began = assignment.key, time.monotonic()
        telling = _Telling(assignment, report)
        try:
            async with asyncio.timeout(assignment.deadline_seconds):
                found = await self._persistently(assignment, secrets, telling)
        except TimeoutError as error:
            raise InputError(
                DEADLINE_EXCEEDED, "resources.max_duration_minutes: it was over before the inputs were here"
            ) from error
        failpoint("agent.after_fetch")
        if found.commit:
            report({"kind": "fetched", "base_model_commit": found.commit})
        assignment = self._shortened(assignment, time.monotonic() - began)
        if found.inputs is not None:
            self._journal.write_inputs(key, found.inputs)
        failpoint("agent.after_inputs")
        _log.info("inputs fetched", job=key.uid, attempt=key.number, commit=found.commit)
        return assignment

    async def _persistently(self, assignment: Assignment, secrets: Mapping[str, str], telling: _Telling) -> Fetched:
        directory = self._journal.directory(assignment.key)
        tries, pause, best = 0, self._pace.first_pause_seconds, 0
        while True:
            tries += 1
            try:
                return await self._fetcher.fetch(assignment, directory, secrets, telling.told)
            except InputError as error:
                if telling.done_bytes > best:
                    best, tries, pause = telling.done_bytes, 1, self._pace.first_pause_seconds
                key = assignment.key
                _log.warning(
                    "inputs not fetched", job=key.uid, attempt=key.number, reason=error.reason, error=str(error)
                )
                if error.lasting or tries >= self._pace.tries:
                    raise
                telling.trouble(str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, no secret
            pause = min(pause * 2, self._pace.last_pause_seconds)

    def _shortened(self, assignment: Assignment, seconds: float) -> Assignment:
        if assignment.deadline_seconds is None:
            return assignment
        shortened = replace(assignment, deadline_seconds=max(assignment.deadline_seconds - seconds, 1.0))
        self._journal.write_assignment(assignment.key, shortened)
        return shortened


class _Telling:
    """Turns what the child tells into report lines, few enough for everybody who reads events."""

    def __init__(self, assignment: Assignment, report: Callable[[Mapping[str, Any]], None]) -> None:
        self._name = str(assignment.setting("base_model.model_name"))
        self._report = report
        self._phase = ""
        self._words_told = ""
        self._told_at = -_TOLD_EVERY_SECONDS
        self.done_bytes = 0
        """How much the model's directory holds."""

    def told(self, progress: Progress) -> None:
        """The child said how far it is."""
        if progress.phase == "FETCHING_MODEL":
            self.done_bytes = max(self.done_bytes, progress.done_bytes)
        now, words = time.monotonic(), self._words(progress)
        due = now >= self._told_at + _TOLD_EVERY_SECONDS and words != self._words_told
        if progress.phase != self._phase or due:
            self._phase, self._told_at, self._words_told = progress.phase, now, words
            self._line(words)

    def trouble(self, what: str) -> None:
        """It is tried again."""
        if self._phase:
            self._line(f"trying again: {what}")

    def _line(self, message: str) -> None:
        self._report({"kind": "phase", "phase": self._phase, "message": message})

    def _words(self, progress: Progress) -> str:
        what = self._name if progress.phase == "FETCHING_MODEL" else "datasets"
        if progress.waiting:
            return f"{what}: another job fetches it"
        if not progress.total_bytes:
            return f"fetching {what}"
        size, unit = next((unit for unit in _UNITS if progress.total_bytes >= unit[0]), (1.0, "bytes"))
        return f"fetching {what}: {progress.done_bytes / size:.3g} of {progress.total_bytes / size:.3g} {unit}"
