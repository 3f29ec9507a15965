"""A real agent that fetches from a hub mirror before a trainer starts: what it reports, and what cuts it off."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from agent.fetching import Fetching, FetchPace
from agent.inputs.failures import InputError
from agent.inputs.settings import InputSettings
from agent.journal import FileJournal
from agent.launch import child_environment
from agent.run import Assignment, AttemptKey
from agent.storage.access import StorageSettings
from agent.uploader.fetcher import Fetcher
from tests.integration.agent.conftest import Agent, until
from tests.support.hub import HubMirror

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane, Job

NAME, TOKEN = "meta-llama/Llama-2-7b", "hf_right-for-this-model"
#: More than one piece of the client library's (10 MB), so that a cut leaves something to go on with.
LARGE_BYTES = 25_000_000


@pytest.fixture
def mirror() -> Iterator[HubMirror]:
    with HubMirror().running() as running:
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What looks like a model to everybody but a trainer, which refuses it within a second."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "none-such"}')
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(os.urandom(LARGE_BYTES))
    return directory


def spec(tmp_path: Path, **model: Any) -> dict[str, Any]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a row"}\n')
    return {
        "backend": "peft",
        "base_model": {"provider": "huggingface", "model_name": NAME, "revision": "main", **model},
        "customization": {"method": "lora"},
        "datasets": [{"source": rows.as_uri()}],
        "artifacts": {"output_uri": (tmp_path / "out").as_uri()},
        "resources": {"cpus": 1},
        "tuning_parameters": {},
    }


def start(agent: Agent, mirror: HubMirror, **more: str) -> None:
    agent.start("--hub-endpoint", mirror.url, **more)


async def assigned(control_plane: FakeControlPlane, tmp_path: Path, *, token: str = TOKEN, **model: Any) -> Job:
    return await control_plane.assign(spec(tmp_path, **model), sealed={"base_model.auth_token": token})


def inputs(agent: Agent, job: Job) -> Any:
    return json.loads((agent.directory(job) / "inputs.json").read_bytes())


def phases(job: Job) -> list[str]:
    return [r.phase_changed.phase for r in job.reports if r.WhichOneof("news") == "phase_changed"]


async def test_the_model_is_fetched_and_its_commit_reported_before_the_trainer_starts(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    commit = mirror.serve(NAME, model, token=TOKEN)
    start(agent, mirror)
    job = await assigned(control_plane, tmp_path)
    await until(lambda: job.last("started"))
    kinds = job.kinds()
    assert kinds[0] == "phase_changed"
    assert kinds.index("fetched") < kinds.index("started")
    assert phases(job)[0] == "FETCHING_MODEL"
    assert job.last("fetched").base_model_commit == commit
    found = inputs(agent, job)
    assert (found["model"]["name"], found["model"]["commit"]) == (NAME, commit)
    assert found["datasets"] == [{"path": str(tmp_path / "rows.jsonl")}]
    path = agent.data_dir / "cache"
    assert found["model"]["path"].startswith(f"{path}/default/")
    await until(lambda: job.last("failed"))


async def test_a_second_job_of_the_model_downloads_nothing_and_one_with_a_wrong_token_gets_nothing(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    mirror.serve(NAME, model, token=TOKEN)
    start(agent, mirror)
    first = await assigned(control_plane, tmp_path)
    await until(lambda: first.last("fetched"))
    second = await assigned(control_plane, tmp_path)
    wrong = await assigned(control_plane, tmp_path, token="hf_wrong")
    await until(lambda: second.last("fetched"))
    failed = await until(lambda: wrong.last("failed"))
    assert (failed.reason, wrong.last("started")) == ("HUB_UNAUTHORIZED", None)
    assert failed.message.startswith("base_model.auth_token: ")
    assert mirror.bodies() == 1
    assert "hf_wrong" not in agent.log
    assert inputs(agent, second) == inputs(agent, first)


@pytest.mark.parametrize(
    ("model_fields", "reason", "field"),
    [
        ({"revision": "v9"}, "MODEL_NOT_FOUND", "base_model.revision"),
        ({"model_name": "no/such"}, "MODEL_NOT_FOUND", "base_model.model_name"),
    ],
)
async def test_what_cannot_be_had_fails_in_words_without_a_trainer(
    control_plane: FakeControlPlane,
    agent: Agent,
    mirror: HubMirror,
    model: Path,
    tmp_path: Path,
    model_fields: dict[str, str],
    reason: str,
    field: str,
) -> None:
    mirror.serve(NAME, model, token=TOKEN)
    start(agent, mirror)
    job = await assigned(control_plane, tmp_path, **model_fields)
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == reason
    assert failed.message.startswith(f"{field}: ")
    assert job.last("started") is None
    await until(lambda: job.stage == "ENDED")


async def test_a_stop_order_cuts_a_download_off_and_the_next_job_goes_on_with_it(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    mirror.serve(NAME, model, token=TOKEN)
    start(agent, mirror)
    mirror.faults.hold.clear()
    job = await assigned(control_plane, tmp_path)
    await until(mirror.bodies)
    await control_plane.stop(job)
    await until(lambda: job.last("stopped"))
    assert job.last("started") is None
    assert not (agent.directory(job) / "inputs.json").exists()
    mirror.faults.hold.set()
    later = await assigned(control_plane, tmp_path)
    await until(lambda: later.last("fetched"))


async def test_an_agent_that_is_killed_while_it_fetches_goes_on_after_a_restart(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    commit = mirror.serve(NAME, model, token=TOKEN)
    start(agent, mirror)
    mirror.faults.hold.clear()
    job = await assigned(control_plane, tmp_path)
    await until(lambda: job.last("phase_changed"))
    await until(mirror.bodies)
    agent.kill()
    mirror.faults.hold.set()
    start(agent, mirror)
    await until(lambda: job.last("started"))
    assert job.last("fetched").base_model_commit == commit


@pytest.mark.parametrize("failpoint", ["agent.after_fetch", "agent.after_inputs"])
async def test_killed_right_after_a_fetch_the_next_agent_starts_the_trainer_once(
    control_plane: FakeControlPlane,
    agent: Agent,
    mirror: HubMirror,
    model: Path,
    tmp_path: Path,
    failpoint: str,
) -> None:
    mirror.serve(NAME, model, token=TOKEN)
    agent.start("--hub-endpoint", mirror.url, failpoint=failpoint)
    job = await assigned(control_plane, tmp_path)
    assert await agent.ended() == -9
    start(agent, mirror)
    await until(lambda: job.last("failed"))
    assert job.kinds().count("started") == 1
    assert mirror.bodies() == 1


async def test_a_hub_that_is_down_for_a_moment_is_asked_again(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    mirror.serve(NAME, model, token=TOKEN)
    mirror.faults.statuses = [503, 503]
    start(agent, mirror)
    job = await assigned(control_plane, tmp_path)
    await until(lambda: job.last("fetched"))
    assert mirror.faults.statuses == []
    assert any("trying again" in r.phase_changed.message for r in job.reports)


async def test_the_jobs_time_holds_for_its_fetch(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    mirror.serve(NAME, model, token=TOKEN)
    mirror.faults.hold.clear()
    start(agent, mirror)
    job = await control_plane.assign(spec(tmp_path), sealed={"base_model.auth_token": TOKEN}, deadline_seconds=3.0)
    failed = await until(lambda: job.last("failed"))
    assert failed.reason == "DEADLINE_EXCEEDED"
    assert failed.message.startswith("resources.max_duration_minutes: ")


async def test_no_secret_is_on_disk_in_a_log_or_in_a_process_list_while_it_fetches(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    mirror.serve(NAME, model, token=TOKEN)
    start(agent, mirror)
    mirror.faults.hold.clear()
    job = await assigned(control_plane, tmp_path)
    await until(mirror.bodies)
    assert agent.process is not None
    shown = _shown_of_children(agent.process.pid)
    assert any(b"agent.uploader" in each for each in shown)
    assert [each for each in shown if TOKEN.encode() in each] == []
    mirror.faults.hold.set()
    await until(lambda: job.last("failed"))
    holding = [path for path in agent.data_dir.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert holding == []
    assert TOKEN not in agent.log


async def test_the_agents_own_token_serves_a_job_without_one_and_is_in_no_childs_environment(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, model: Path, tmp_path: Path
) -> None:
    commit = mirror.serve(NAME, model, token=TOKEN)
    mirror.faults.hold.clear()
    start(agent, mirror, HF_TOKEN=TOKEN)
    job = await control_plane.assign(spec(tmp_path))
    await until(mirror.bodies)
    assert agent.process is not None
    assert [each for each in _shown_of_children(agent.process.pid) if TOKEN.encode() in each] == []
    mirror.faults.hold.set()
    await until(lambda: job.last("fetched"))
    assert job.last("fetched").base_model_commit == commit


async def test_a_hub_that_stays_down_ends_the_attempt_after_its_tries(tmp_path: Path) -> None:
    settings = InputSettings(cache_dir=str(tmp_path / "cache"), cache_bytes=1, hub_endpoint="http://127.0.0.1:1")
    fetcher = Fetcher(child_environment(), settings, StorageSettings(), {}, tmp_path)
    journal = FileJournal(tmp_path / "agent")
    key = AttemptKey("JOB", 1)
    journal.create(key, b"n" * 16, "boot")
    assignment = Assignment(key, "j", "default", spec(tmp_path), (), None)
    pace = FetchPace(tries=3, first_pause_seconds=0.01)
    lines: list[Any] = []
    with pytest.raises(InputError) as caught:
        await Fetching(journal, fetcher, pace).carry_out(assignment, {}, lines.append)
    assert caught.value.reason == "HUB_UNAVAILABLE"
    assert [line["phase"] for line in lines] == ["FETCHING_MODEL"] * len(lines)
    assert sum("trying again" in line["message"] for line in lines) == 2


def _shown_of_children(pid: int) -> list[bytes]:
    """Command line and environment of every child of a process, as the kernel shows them."""
    from pathlib import Path

    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{child}/{name}").read_bytes() for child in children for name in ("cmdline", "environ")]
