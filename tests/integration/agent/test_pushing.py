"""A real agent that pushes a published output to a hub mirror: before it says that all is done, whatever goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent.fetching import FetchPace
from agent.inputs.settings import InputSettings
from agent.launch import child_environment
from agent.pushing import Pushing
from agent.run import Assignment, AttemptKey
from agent.storage.access import StorageSettings
from agent.uploader.fetcher import Fetcher
from tests.integration.agent.conftest import Agent, mock_spec, until
from tests.support.hub import Account, HubMirror

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane, Job

NAME, TOKEN = "someone/result", "hf_may-write-there"


@pytest.fixture
def mirror() -> Iterator[HubMirror]:
    with HubMirror().running() as running:
        running.accounts[TOKEN] = Account("someone")
        yield running


async def assigned(control_plane: FakeControlPlane, tmp_path: Path, **knobs: Any) -> Job:
    spec = mock_spec(tmp_path, steps=1, step_seconds=0.01, output_bytes=100_000, **knobs)
    spec["export"] = {"push_to_hub": NAME}
    return await control_plane.assign(spec, sealed={"base_model.auth_token": TOKEN})


def pushed(mirror: HubMirror) -> dict[str, bytes]:
    repository = mirror.repositories[NAME]
    return {file.name: file.data for file in repository.commits[repository.revisions["main"]]}


def published(tmp_path: Path) -> dict[str, bytes]:
    out = tmp_path / "out"
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


async def test_the_output_is_one_commit_of_a_private_repository(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, tmp_path: Path
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    job = await assigned(control_plane, tmp_path)
    await until(lambda: job.last("published"))
    found = published(tmp_path)
    del found["manifest.json"]
    assert pushed(mirror) == found
    assert len(found["adapter_model.safetensors"]) > 100_000
    repository = mirror.repositories[NAME]
    assert repository.token == TOKEN
    assert repository.messages == [f"Result of training job {job.assignment['job_id']}"]
    told = [r.phase_changed.message for r in job.reports if r.WhichOneof("news") == "phase_changed"]
    assert told[-2:] == [
        f"pushing to {NAME} on the hub",
        f"pushed to {NAME} on the hub: commit {repository.revisions['main']}",
    ]
    assert job.kinds()[-1] == "published"
    assert not job.last("warned")
    holding = [path for path in agent.data_dir.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert holding == []
    assert TOKEN not in agent.log


@pytest.mark.parametrize("why", ["not a writer", "refused"])
async def test_a_push_that_fails_is_a_warning_and_the_output_is_there(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, tmp_path: Path, why: str
) -> None:
    if why == "not a writer":
        mirror.accounts[TOKEN] = Account("someone", role="read")
    elif why == "refused":
        mirror.faults.refuse_pushes = 403
    agent.start("--hub-endpoint", mirror.url)
    job = await assigned(control_plane, tmp_path)
    await until(lambda: job.last("published"))
    warned = job.last("warned")
    assert warned.reason == "HUB_PUSH_FAILED"
    assert "not allowed to write to this model" in warned.message
    assert warned.message.endswith(f"the output is at {(tmp_path / 'out').as_uri()} all the same")
    assert TOKEN not in warned.message
    assert {"manifest.json", "adapter_model.safetensors"} < set(published(tmp_path))
    assert NAME not in mirror.repositories
    assert job.kinds()[-2:] == ["warned", "published"]


@pytest.mark.parametrize("failpoint", ["agent.after_published", "agent.after_push"])
async def test_a_push_that_was_cut_off_is_made_by_the_next_agent_and_once(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, tmp_path: Path, failpoint: str
) -> None:
    agent.start("--hub-endpoint", mirror.url, failpoint=failpoint)
    job = await assigned(control_plane, tmp_path)
    assert await agent.ended() == -9
    agent.start("--hub-endpoint", mirror.url)
    await until(lambda: job.last("published"))
    assert set(pushed(mirror)) == set(published(tmp_path)) - {"manifest.json"}
    assert len(mirror.repositories[NAME].messages) == 1
    assert not job.last("warned")


async def test_a_hub_that_stays_down_is_asked_some_times_and_told_of(tmp_path: Path) -> None:
    settings = InputSettings(cache_dir=str(tmp_path / "cache"), cache_bytes=1, hub_endpoint="http://127.0.0.1:1")
    fetcher = Fetcher(child_environment(), settings, StorageSettings(), {}, tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "README.md").write_text("a card")
    (tmp_path / "logs").mkdir()
    spec = {**mock_spec(tmp_path), "export": {"push_to_hub": NAME}}
    assignment = Assignment(AttemptKey("JOB", 1), "job", "default", spec, (), None)
    said: list[Any] = []
    pace = FetchPace(tries=2, first_pause_seconds=0.01, last_pause_seconds=0.01)
    await Pushing(fetcher, pace).carry_out(assignment, tmp_path, {"base_model.auth_token": TOKEN}, said.append)
    assert [report["kind"] for report in said] == ["phase", "warning"]
    assert said[-1]["reason"] == "HUB_PUSH_FAILED"
    assert "the hub http://127.0.0.1:1 does not serve" in said[-1]["message"]
