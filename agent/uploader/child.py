"""The agent's side of the uploader: starts a child per task and reads its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from typing import TYPE_CHECKING, Any

import structlog

from agent.checkpoint import KEPT
from agent.storage.access import Access, StorageSettings, session_name
from agent.uploader.failures import CONFIG_INVALID, STORAGE_UNAVAILABLE, UploadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.run import Assignment, AttemptKey

_log = structlog.get_logger()
_SHIP_REST_SECONDS = 30.0
_CLOSE_SECONDS = 3.0
_END_SECONDS = 5.0
#: A thousand datasets' paths are one line of an answer.
_LINE_BYTES = 16 << 20


class Uploader:
    """Moves an attempt's bytes.

    Every call blocks as long as it takes; cancelling it ends the child.

    Args:
        environment: the children's whole environment.
        settings: how they reach object stores.
        credentials: the agent's own AWS variables, told to the children with their job.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        settings: StorageSettings | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = dict(environment)
        self._settings = settings or StorageSettings()
        self._credentials = dict(credentials or {})
        self._shippers: dict[AttemptKey, Process] = {}

    async def check(self, assignment: Assignment, directory: Path) -> None:
        """See that the output and the logs can be written, before anything is trained; leaves nothing behind.

        Raises:
            UploadError: see agent.uploader.failures.
        """
        log = self._place(assignment, "artifacts.log_uri") if assignment.setting("artifacts.log_uri") else None
        await self._task(assignment, directory, {"command": "check", "log": log})

    async def stage(self, assignment: Assignment, directory: Path) -> str:
        """Upload the output to staging; the manifest's digest.

        Raises:
            UploadError: see agent.uploader.failures.
        """
        answer = await self._task(assignment, directory, {"command": "stage"})
        return str(answer["digest"])

    async def publish(self, assignment: Assignment, directory: Path, digest: str) -> Mapping[str, Any]:
        """Bring the staged output to its place; the fields of the report `published`.

        Raises:
            UploadError: see agent.uploader.failures.
        """
        answer = await self._task(assignment, directory, {"command": "publish", "digest": digest})
        return dict(answer["publication"])

    async def discard(self, assignment: Assignment, directory: Path) -> None:
        """Remove what was staged.

        Raises:
            UploadError: see agent.uploader.failures.
        """
        await self._task(assignment, directory, {"command": "discard"})

    async def store_checkpoint(self, assignment: Assignment, directory: Path) -> int:
        """Store the newest whole checkpoint below the output's place; its step, 0: there is none.

        Raises:
            UploadError: see agent.uploader.failures.
        """
        keep = assignment.setting("tuning_parameters.checkpoint_limit") or KEPT
        answer = await self._task(assignment, directory, {"command": "store", "keep": keep})
        return int(answer.get("step", 0))

    async def fetch_checkpoint(self, assignment: Assignment, directory: Path) -> tuple[int, list[str]]:
        """Bring the job's newest checkpoint here unless one is as new; the step that is stored, and words.

        Raises:
            UploadError: see agent.uploader.failures.
        """
        answer = await self._task(assignment, directory, {"command": "restore"})
        return int(answer["stored"]), list(answer["told"])

    async def ship_log(self, assignment: Assignment, directory: Path) -> None:
        """Ship the log to `artifacts.log_uri`, if there is one, from now on. Repeatable."""
        uri = assignment.setting("artifacts.log_uri")
        if not uri or assignment.key in self._shippers:
            return
        job = {
            "command": "ship",
            "attempt": assignment.key.number,
            "directory": str(directory),
            **self._place(assignment, "artifacts.log_uri"),
        }
        self._shippers[assignment.key] = await self._start(job, directory)

    async def finish_log(self, key: AttemptKey) -> None:
        """The log is complete: ship the rest, for up to 30 s. Repeatable."""
        child = self._shippers.pop(key, None)
        if child is None:
            return
        try:
            async with asyncio.timeout(_SHIP_REST_SECONDS):
                answer = await _answer(child)
        except TimeoutError:
            answer = {"ok": False, "message": f"not done within {_SHIP_REST_SECONDS:.0f} s"}
        if not answer["ok"]:
            _log.warning("log not shipped to its end", job=key.uid, attempt=key.number, error=answer["message"])

    async def close(self) -> None:
        """End the log children after they have shipped what there is, within some seconds; the next agent goes on."""
        finishing = [asyncio.wait_for(_answer(child), _CLOSE_SECONDS) for child in self._shippers.values()]
        self._shippers.clear()
        await asyncio.gather(*finishing, return_exceptions=True)

    async def _task(self, assignment: Assignment, directory: Path, command: Mapping[str, Any]) -> dict[str, Any]:
        uri = assignment.setting("artifacts.output_uri")
        if not uri:
            raise UploadError(CONFIG_INVALID, "artifacts.output_uri is not set, and no default was given")
        job = {
            **command,
            **self._place(assignment, "artifacts.output_uri"),
            "uid": assignment.key.uid,
            "job_id": assignment.job_id,
            "attempt": assignment.key.number,
            "overwrite": bool(assignment.setting("artifacts.overwrite")),
            "directory": str(directory),
        }
        answer = await _answer(await self._start(job, directory))
        if not answer["ok"]:
            raise UploadError(answer["reason"], answer["message"])
        return answer

    def _place(self, assignment: Assignment, field: str) -> dict[str, Any]:
        """Where, and by whose leave: what every job says."""
        access = Access(
            session_name=session_name(assignment.job_id),
            role_arn=assignment.setting("artifacts.auth.role_arn"),
            field=field,
            settings=self._settings,
        )
        return {"uri": assignment.setting(field), "access": access.to_json(), "ambient": self._credentials}

    async def _start(self, job: Mapping[str, Any], directory: Path) -> Process:
        return await start_child(job, environment=self._environment, log=directory / "logs" / "uploader.log")


async def start_child(job: Mapping[str, Any], *, environment: Mapping[str, str], log: Path) -> Process:
    """Start a child with a job. Secrets are in the job only: it goes to the child's stdin, whose end we hold."""
    with log.open("ab") as stderr:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "agent.uploader"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
            env=dict(environment),
            limit=_LINE_BYTES,
        )
    if child.stdin is not None:
        child.stdin.write(json.dumps(job).encode() + b"\n")
    return child


async def _end(child: Process) -> None:
    """Ask it to end, then make it."""
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), _END_SECONDS)
    except TimeoutError:
        child.kill()
        await child.wait()


async def _answer(child: Process) -> dict[str, Any]:
    """Close the child's input and read its answer; a child that dies without one was cut off by something passing."""
    try:
        # Without an input, Python 3.11 would leave the pipe open, and a shipper waits for its end.
        output, _ = await child.communicate(b"")
    except asyncio.CancelledError:
        await _end(child)
        raise
    try:
        return dict(json.loads(output))
    except ValueError:
        return {
            "ok": False,
            "reason": STORAGE_UNAVAILABLE,
            "message": f"the uploader ended with status {child.returncode} and no answer (logs/uploader.log)",
        }
