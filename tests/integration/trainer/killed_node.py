"""A node that can be lost at any instant: a trainer, and beside it what stores its checkpoints as they come.

Both are processes of their own and die by SIGKILL; then the node's disk is gone, too. What is left is what reached shared
storage, from which another node goes on. `tests/e2e/test_resume_elsewhere.py` has the same with agents and a control plane.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from datetime import datetime
from typing import TYPE_CHECKING

import agent.failpoints
from agent.checkpoint import DIRECTORY, MANIFEST, newest_first
from agent.storage import open_storage
from agent.storage.access import Access
from agent.uploader import checkpoints
from tests.integration.trainer.warm import begin, beside
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

    from tests.integration.trainer.attempts import Attempt

KEPT = 2
PAUSE_SECONDS = 0.002


class Place:
    """Where the checkpoints of one job are stored; `environment` holds what is needed to reach it."""

    def __init__(self, uri: str, access: Access, environment: Mapping[str, str]) -> None:
        self.uri = uri
        self.access = access
        self.environment = dict(environment)
        self.storage = open_storage(uri, access)

    def whole(self) -> int:
        """The step of the newest that is stored to its end; 0: none is."""
        return max((step for step, names in self._found().items() if MANIFEST in names), default=0)

    def torn(self) -> bool:
        """Whether one is there in part."""
        return any(MANIFEST not in names for names in self._found().values())

    def _found(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for name in self.storage.names():
            place, _, file = name.partition("/")
            found.setdefault(int(place.partition(".")[0]), set()).add(file)
        return found


class Node:
    """One attempt on a node of its own.

    Args:
        attempt: what to train.
        number: of the attempt.
        place: the job's.
        dies_at: a failpoint of the trainer's, or of what stores; the one that reaches it dies, and the other with it.
        from_step: storing dies with the first checkpoint of this step or a later one.
    """

    def __init__(self, attempt: Attempt, number: int, place: Place, *, dies_at: str = "", from_step: int = 0) -> None:
        self.attempt = attempt
        told = checkpoints.fetch(place.storage, attempt.directory)
        self.resumes_from = int(told["stored"])
        self._trains_since: float | None = None
        in_trainer = dies_at if dies_at.startswith("trainer.") else ""
        self._trainer = begin(attempt.directory, failpoint=in_trainer)
        self._storer = beside(
            _store_for_ever,
            *(attempt.directory, number, place.uri, place.access.to_json(), place.environment),
            *("" if in_trainer else dies_at, from_step),
        )

    def train(self) -> int:
        """Wait for the trainer; its exit status."""
        self._trainer.join(120)
        status = self._trainer.exitcode
        self._end(self._storer)
        assert status is not None, "the training did not end"
        return status

    async def die(self, when: Callable[[Node], bool]) -> bool:
        """Be lost when that is so, or when a part of it has died; False: the training had finished before."""

        def now() -> bool:
            gone = self._trainer.exitcode is not None or self._storer.exitcode is not None
            return gone or when(self)

        await eventually(now, deadline_seconds=120, every_seconds=PAUSE_SECONDS)
        self._end(self._storer)
        self._end(self._trainer)
        if not (self.attempt.directory / "reports.jsonl").exists():
            return True
        assert not self.attempt.said("failed"), self.attempt.reports[-1]
        finished = bool(self.attempt.said("finished"))
        assert finished or self._trainer.exitcode == -signal.SIGKILL
        return not finished

    def was_writing(self) -> bool:
        """Whether a checkpoint was being written when it died."""
        return any((self.attempt.directory / DIRECTORY).glob(".writing-*"))

    def training_seconds(self) -> float:
        """How long ago the trainer said that it trains; negative: it has not."""
        if self._trains_since is None and (self.attempt.directory / "reports.jsonl").exists():
            said = [each["time"] for each in self.attempt.said("phase") if each["phase"] == "TRAINING"]
            self._trains_since = datetime.fromisoformat(said[0]).timestamp() if said else None
        return -1.0 if self._trains_since is None else time.time() - self._trains_since

    def lose_disk(self) -> None:
        shutil.rmtree(self.attempt.directory)

    @staticmethod
    def _end(process: ForkServerProcess) -> None:
        process.kill()
        process.join()


def _store_for_ever(
    directory: Path,
    number: int,
    uri: str,
    access: dict[str, object],
    environment: dict[str, str],
    failpoint: str,
    from_step: int,
) -> None:
    os.environ.update(environment)
    storage = open_storage(uri, Access.parse(access))
    stored = -1
    while True:
        newest = next(iter(newest_first([directory / DIRECTORY])), None)
        if newest is None or int(newest.name) == stored:
            time.sleep(PAUSE_SECONDS)
            continue
        if int(newest.name) >= from_step:
            agent.failpoints._ARMED = frozenset(filter(None, [failpoint]))
        stored = int(checkpoints.upload(storage, directory, number, keep=KEPT).get("step", -1))
