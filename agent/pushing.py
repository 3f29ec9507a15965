"""What comes between publishing an output and saying so: pushing it to the hub, where the job wants that.

The output is at its place by then, so whatever goes wrong here is a warning of the job's, never its failure. A push
that was cut off is begun again by the next agent; one that was made already adds nothing.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import structlog

from agent.failpoints import failpoint
from agent.fetching import FetchPace
from agent.inputs.failures import HUB_UNAVAILABLE, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from agent.run import Assignment
    from agent.uploader.fetcher import Fetcher

_log = structlog.get_logger()
HUB_PUSH_FAILED = "HUB_PUSH_FAILED"
_LONGEST_SECONDS = 3600.0


class Pushing:
    """Pushes outputs to the hub.

    Args:
        fetcher: starts the children.
        pace: how often, and after what pauses.
    """

    def __init__(self, fetcher: Fetcher, pace: FetchPace | None = None) -> None:
        self._fetcher = fetcher
        self._pace = pace or FetchPace()

    async def carry_out(
        self,
        assignment: Assignment,
        directory: Path,
        secrets: Mapping[str, str],
        report: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Push, and tell how it went; takes an hour at most. Raises nothing of the hub's.

        Args:
            assignment: whose output.
            directory: the attempt's.
            secrets: of the job, by path.
            report: appends a line to the attempt's reports.

        Raises:
            JournalError: the disk takes no note.
        """
        name = assignment.setting("export.push_to_hub")
        report({"kind": "phase", "phase": "UPLOADING", "message": f"pushing to {name} on the hub"})
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                commit = await self._persistently(assignment, directory, secrets)
        except TimeoutError:
            self._failed(assignment, InputError(HUB_UNAVAILABLE, "it took longer than an hour"), report)
        except InputError as error:
            self._failed(assignment, error, report)
        else:
            failpoint("agent.after_push")
            report({"kind": "phase", "phase": "UPLOADING", "message": f"pushed to {name} on the hub: commit {commit}"})
            _log.info("output pushed", job=assignment.key.uid, attempt=assignment.key.number, name=name, commit=commit)

    async def _persistently(self, assignment: Assignment, directory: Path, secrets: Mapping[str, str]) -> str:
        tries, pause = 0, self._pace.first_pause_seconds
        while True:
            tries += 1
            try:
                return await self._fetcher.push(assignment, directory, secrets)
            except InputError as error:
                if error.lasting or tries >= self._pace.tries:
                    raise
                _log.info("output not pushed yet", job=assignment.key.uid, reason=error.reason, error=str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, no secret
            pause = min(pause * 2, self._pace.last_pause_seconds)

    def _failed(self, assignment: Assignment, error: InputError, report: Callable[[Mapping[str, Any]], None]) -> None:
        key, uri = assignment.key, assignment.setting("artifacts.output_uri")
        message = f"{error} ({error.reason}); the output is at {uri} all the same"
        report({"kind": "warning", "reason": HUB_PUSH_FAILED, "message": message})
        _log.warning("output not pushed", job=key.uid, attempt=key.number, reason=error.reason, error=str(error))
