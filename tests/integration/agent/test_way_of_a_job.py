"""From a wake to published files, over real processes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tests.integration.agent.conftest import Agent, mock_spec
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane


async def test_a_job_is_claimed_run_reported_committed_published_and_forgotten(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    await eventually(lambda: agent.events("agent ready"))
    job = await control_plane.assign(mock_spec(tmp_path, steps=5, step_seconds=0.05))
    await eventually(lambda: job.last("published"))
    assert job.kinds()[0] == "started"
    assert job.kinds()[-2:] == ["finished", "published"]
    published = job.last("published")
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == published.manifest_digest == job.granted
    for file in published.files:
        content = (tmp_path / "out" / file.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size_bytes, file.sha256)
    assert {file.path for file in published.files} | {"manifest.json"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert json.loads(manifest)["uid"] == job.key[0]
    assert b"step=5/5" in job.log
    await eventually(lambda: job.stage == "ENDED")
    assert agent.directory(job).is_dir()
    job.settled = True
    await control_plane.wake()
    await eventually(lambda: not agent.directory(job).exists())
    assert await agent.terminate() == 0
