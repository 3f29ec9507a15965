"""A disk that takes no note: the node says so in words, does nothing by halves, and goes on when there is room again."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.checkpoints import Checkpoints
from agent.fetching import Fetching
from agent.inputs.settings import InputSettings
from agent.journal import FileJournal
from agent.launch import Launcher, child_environment
from agent.logs import LogSender
from agent.loops import Loops
from agent.plan import Wanted
from agent.ports import Answer, ClaimAnswer, CommitAnswer, Lines, LogAnswer, Watermark
from agent.pushing import Pushing
from agent.reports import ReportSender
from agent.run import AttemptKey, Stage
from agent.runners.local import LocalRunner
from agent.sealing import SealingKey
from agent.steps import Collaborators
from agent.storage.access import StorageSettings
from agent.supervisor import Supervisor
from agent.uploader.child import Uploader
from agent.uploader.fetcher import Fetcher
from tests.integration.agent.conftest import mock_spec, until
from tests.support.journals import FailingJournal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path


class Agreeable:
    """A control plane that grants everything at once."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.kinds: dict[AttemptKey, list[str]] = {}

    async def claim(self, key: AttemptKey, nonce: bytes, public_key: bytes, rendezvous_port: int) -> ClaimAnswer:
        assert nonce
        assert rendezvous_port
        document = {"uid": key.uid, "attempt": key.number, "job_id": "demo", "spec": self.spec, "devices": []}
        return ClaimAnswer(Answer.GRANTED, assignment=json.dumps(document).encode())

    async def report(self, batch: Sequence[Lines]) -> Mapping[AttemptKey, Watermark]:
        marks = {}
        for part in batch:
            kinds = self.kinds.setdefault(part.key, [])
            kinds += [json.loads(line)["kind"] for line in part.lines[len(kinds) + 1 - part.first_sequence :]]
            marks[part.key] = Watermark(len(kinds), stale=False)
        return marks

    async def commit(self, key: AttemptKey, digest: str) -> CommitAnswer:
        return CommitAnswer(Answer.GRANTED)

    async def send_log(self, key: AttemptKey, rank: int, offset_bytes: int, data: bytes) -> LogAnswer:
        return LogAnswer(None, enough=True)


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    control_plane: Any = Agreeable(mock_spec(tmp_path, steps=2, step_seconds=0.01))
    reports, logs, loops = ReportSender(control_plane), LogSender(control_plane), Loops()
    journal = FailingJournal(FileJournal(tmp_path / "agent"))
    inputs = InputSettings(cache_dir=str(tmp_path / "cache"), cache_bytes=1)
    fetcher = Fetcher(child_environment(), inputs, StorageSettings(), {}, tmp_path)
    uploader = Uploader(child_environment())
    collaborators = Collaborators(
        journal=journal,  # type: ignore[arg-type]
        runner=LocalRunner(),
        control_plane=control_plane,
        reports=reports,
        logs=logs,
        uploader=uploader,
        fetching=Fetching(journal, fetcher),  # type: ignore[arg-type]
        pushing=Pushing(fetcher),
        checkpoints=Checkpoints(journal, uploader),  # type: ignore[arg-type]
        launcher=Launcher(),
        sealing_key=SealingKey(),
        grace=timedelta(seconds=1),
        simulated=True,
    )
    made = Supervisor(collaborators, loops, changed=lambda: None, deadline_grace=timedelta(seconds=30))
    loops.forever("supervisor", made.run())
    loops.forever("reports", reports.run())
    death = asyncio.create_task(loops.death())
    yield made
    assert not death.done(), death.result().__cause__
    death.cancel()
    await loops.close()
    reports.close()


@pytest.mark.parametrize(
    "call",
    ["create", "write_assignment", "write_process", "write_staged", "write_published", "append_report", "remove"],
)
async def test_a_full_disk_makes_the_node_unready_in_words_and_room_lets_the_job_go_on(
    supervisor: Supervisor, tmp_path: Path, call: str
) -> None:
    journal: Any = supervisor.collaborators.journal
    control_plane: Any = supervisor.collaborators.control_plane
    key = AttemptKey(f"DISK-{tmp_path.name[-40:].replace('.', '-')}", 1)
    journal.failing = {call}
    supervisor.want(Wanted(claim=(key,)))
    if call == "remove":
        await until(lambda: supervisor.states() and supervisor.states()[0].stage is Stage.ENDED)
        await until(lambda: "published" in control_plane.kinds.get(key, []))
        supervisor.want(Wanted(settled=frozenset({key})))
    await until(lambda: journal.failed)
    if call != "write_process":
        assert "No space left on device" in supervisor.not_ready_reason
    journal.failing = set()
    if call == "create":
        assert supervisor.states() == ()
        supervisor.want(Wanted(claim=(key,)))
    if call == "remove":
        await until(lambda: supervisor.states() == ())
    else:
        await until(lambda: "published" in control_plane.kinds.get(key, []))
    assert control_plane.kinds[key].count("started") == 1
    assert control_plane.kinds[key].count("published") == 1
    await until(lambda: supervisor.not_ready_reason == "")
