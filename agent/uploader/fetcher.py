"""The agent's side of what fetches: a child per fetch or probe, which tells how far it is and then answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from agent.inputs.failures import CONFIG_INVALID, HUB_UNAVAILABLE, InputError
from agent.uploader.child import start_child

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from agent.inputs.settings import InputSettings
    from agent.run import Assignment
    from agent.storage.access import StorageSettings


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is; `total_bytes` 0: not known yet. `waiting`: for another job's download of the same model."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought: the content of `inputs.json`, None where there was nothing to bring, and the commit."""

    inputs: Mapping[str, Any] | None
    commit: str


@dataclass(frozen=True, slots=True)
class ProbeWanted:
    """A job that is not assigned yet, as far as a look at its model needs it."""

    job_id: str
    project: str
    spec: Mapping[str, Any]
    secrets: Mapping[str, str]
    preflight: bool = False
    """Whether all that the job needs is looked at, for a job that may never be."""


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Starts the children. Cancelling a call kills its child; a later one goes on with what is here.

    Attributes:
        environment: the children's whole environment.
        settings: where inputs come from, and the cache.
        storage: how object stores are reached.
        credentials: the agent's own AWS variables.
        directory: the agent's own, for what belongs to no attempt.
        hub_token: the agent's own token for the hub, for jobs without one; empty: it has none.
    """

    environment: Mapping[str, str]
    settings: InputSettings
    storage: StorageSettings
    credentials: Mapping[str, str] = field(repr=False)
    directory: Path
    hub_token: str = field(default="", repr=False)

    async def fetch(
        self, assignment: Assignment, directory: Path, secrets: Mapping[str, str], told: Callable[[Progress], None]
    ) -> Fetched:
        """Bring an attempt's inputs here.

        Raises:
            InputError: see agent.inputs.failures.
        """
        job = _job("fetch", assignment, directory, secrets)
        child = await self._start(job, directory / "logs" / "uploader.log")
        answer = await _answer(child, lambda line: told(Progress(**line)))
        return Fetched(answer["inputs"], answer["commit"])

    async def push(self, assignment: Assignment, directory: Path, secrets: Mapping[str, str]) -> str:
        """Push an attempt's output to the hub; the commit.

        Raises:
            InputError: see agent.inputs.failures.
        """
        job = _job("push", assignment, directory, secrets)
        child = await self._start(job, directory / "logs" / "uploader.log")
        return str((await _answer(child, lambda _: None))["commit"])

    async def probe(self, wanted: ProbeWanted) -> dict[str, Any]:
        """Look at a job's model: `outcome`, PASSED or SKIPPED, and `facts`, what was seen of it.

        Raises:
            InputError: it cannot be had.
        """
        return await self._looked(wanted, "probe")

    async def preflight(self, wanted: ProbeWanted) -> dict[str, Any]:
        """Look at all that a job would need: `findings` and `facts`.

        Raises:
            InputError: the child ended without an answer.
        """
        return await self._looked(wanted, "preflight")

    async def _looked(self, wanted: ProbeWanted, command: str) -> dict[str, Any]:
        directory = self.directory / "probes"
        directory.mkdir(exist_ok=True)
        job = {**asdict(wanted), "command": command, "directory": str(directory), "reads_inputs": True}
        return await _answer(await self._start(job, directory / "probe.log"), lambda _: None)

    async def _start(self, job: Mapping[str, Any], log: Path) -> Process:
        more = {
            "settings": self.settings.to_json(),
            "storage": asdict(self.storage),
            "ambient": dict(self.credentials),
            "hub_token": self.hub_token,
        }
        return await start_child({**job, **more}, environment=self.environment, log=log)


def _job(command: str, assignment: Assignment, directory: Path, secrets: Mapping[str, str]) -> dict[str, Any]:
    """What the child is told of an attempt."""
    return {
        "command": command,
        "directory": str(directory),
        "job_id": assignment.job_id,
        "project": assignment.project,
        "spec": assignment.spec,
        "reads_inputs": assignment.reads_inputs,
        "secrets": dict(secrets),
    }


async def _answer(child: Process, told: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Read to the answer, the line that has `ok`; a child that dies without one was cut off by something passing."""
    if child.stdin is None or child.stdout is None:
        raise AssertionError("the child was started with pipes")
    answer: dict[str, Any] | None = None
    try:
        child.stdin.close()
        async for data in child.stdout:
            line = json.loads(data)
            if "ok" in line:
                answer = line
            else:
                told(line)
        await child.wait()
    except (ValueError, TypeError) as error:
        raise InputError(HUB_UNAVAILABLE, "the fetching child said what nobody understands") from error
    finally:
        # However this ends, nothing of it goes on: cancelled, or told something strange.
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await asyncio.shield(child.wait())
    if answer is None:
        status = child.returncode
        raise InputError(HUB_UNAVAILABLE, f"the fetching child ended with status {status} and no answer")
    if not answer["ok"]:
        raise InputError(str(answer.get("reason", CONFIG_INVALID)), str(answer.get("message", "")))
    return answer
