"""The node's model cache: once for all jobs of a project, never without asking, never more than it may hold."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.inputs.cache import Entry, ModelCache
from agent.inputs.failures import InputError
from agent.inputs.models import ModelWanted, Place, from_hub, open_hub

if TYPE_CHECKING:
    from pathlib import Path

NAME, TOKEN = "owner/name", "hf_right"
WANTED = ModelWanted("huggingface", NAME, "main", "")


def place(tmp_path, attempt="JOB.1", project="default", **calls):
    directory = tmp_path / "attempts" / attempt
    directory.mkdir(parents=True, exist_ok=True)
    calls = {"expects": lambda _directory, _size: None, "waiting": lambda: None, **calls}
    return Place(project, directory, **calls)


def fetch(settings, at, *, wanted=WANTED, token=TOKEN):
    return from_hub(open_hub(settings, {"base_model.auth_token": token} if token else {}), wanted, settings, at)


def test_a_model_is_downloaded_once_and_lies_there_as_an_ordinary_model(mirror, directory, settings, tmp_path):
    commit = mirror.serve(NAME, directory, token=TOKEN)
    model = fetch(settings, place(tmp_path))
    again = fetch(settings, place(tmp_path, "JOB.2"))
    assert (model.name, model.commit, again) == (NAME, commit, model)
    assert sorted(path.name for path in model.path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert mirror.bodies() == 1


def test_a_wrong_token_is_refused_although_the_model_is_here(mirror, directory, settings, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    fetch(settings, place(tmp_path))
    for token in ("hf_wrong", None):
        with pytest.raises(InputError) as caught:
            fetch(settings, place(tmp_path, "JOB.2"), token=token)
        assert caught.value.reason == "HUB_UNAUTHORIZED"


def test_a_hub_that_is_away_gives_nothing_although_the_model_is_here(mirror, directory, settings, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    fetch(settings, place(tmp_path))
    with pytest.raises(InputError) as caught:
        fetch(replace(settings, hub_endpoint="http://127.0.0.1:1"), place(tmp_path, "JOB.2"))
    assert caught.value.reason == "HUB_UNAVAILABLE"


def test_projects_share_nothing(mirror, directory, settings, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    first = fetch(settings, place(tmp_path))
    second = fetch(settings, place(tmp_path, "JOB.2", project="other"))
    assert first.path != second.path
    assert mirror.bodies() == 2


def test_two_jobs_of_one_model_download_it_once(mirror, directory, settings, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    mirror.faults.hold.clear()
    waited = threading.Event()
    found = []

    def job(number):
        at = place(tmp_path, f"JOB.{number}", waiting=lambda: (waited.set(), mirror.faults.hold.set()))
        found.append(fetch(settings, at))

    jobs = [threading.Thread(target=job, args=(number,)) for number in (1, 2)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join(30)
    assert waited.is_set()
    assert found[0] == found[1]
    assert mirror.bodies() == 1


def test_the_platforms_token_serves_jobs_without_one(mirror, directory, settings, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert fetch(replace(settings, hub_token_file=str(tmp_path / "token")), place(tmp_path), token=None).commit


def test_a_jobs_token_goes_before_the_platforms_and_that_before_the_agents_own(settings, tmp_path):
    (tmp_path / "token").write_text("hf_platform")
    platform = replace(settings, hub_token_file=str(tmp_path / "token"))
    asked = {"base_model.auth_token": "hf_job"}
    assert open_hub(platform, asked, own_token="hf_own").token == "hf_job"
    assert open_hub(platform, {}, own_token="hf_own").token == "hf_platform"
    assert open_hub(settings, {}, own_token="hf_own").token == "hf_own"
    assert open_hub(settings, {}).token is None


def test_a_download_that_failed_goes_on_and_is_not_taken_for_whole(mirror, directory, settings, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    mirror.faults.altered = "tokenizer.json"
    with pytest.raises(InputError):
        fetch(settings, place(tmp_path))
    mirror.faults.altered = ""
    model = fetch(settings, place(tmp_path))
    assert (model.path / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()
    assert mirror.bodies() == 1


def test_a_branch_that_moved_on_is_another_model(mirror, directory, settings, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    before = fetch(settings, place(tmp_path))
    (directory / "config.json").write_text('{"model_type": "llama", "more": 1}')
    mirror.repositories[NAME].commit(directory)
    after = fetch(settings, place(tmp_path))
    assert after.commit != before.commit
    assert after.path.joinpath("config.json").read_text() != before.path.joinpath("config.json").read_text()


class Filled:
    """A cache of 100 bytes, filled by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = ModelCache(root / "cache", limit_bytes=100)

    def obtain(self, name: str, size_bytes: int, *, attempt: str = "") -> Path:
        user = self.root / (attempt or f"attempt-of-{name}")
        user.mkdir(exist_ok=True)
        return self.cache.obtain(
            Entry(self.root / "cache", "default", name, "c0"),
            size_bytes,
            user=user,
            fill=lambda directory: (directory / "model.safetensors").write_bytes(bytes(size_bytes)),
            waiting=lambda: None,
        )

    def ended(self, name: str) -> None:
        (self.root / f"attempt-of-{name}").rmdir()

    def here(self) -> set[str]:
        return {entry.model for entry in self.cache.entries()}


def test_the_longest_unused_goes_first_when_there_is_no_room(tmp_path):
    filled = Filled(tmp_path)
    for seconds, name in enumerate(("a", "b")):
        entry = filled.obtain(name, 40)
        filled.ended(name)
        os.utime(entry.parent / ".c0" / "complete.json", (seconds, seconds))
    filled.obtain("a", 40, attempt="another")
    (tmp_path / "another").rmdir()
    filled.obtain("c", 50)
    assert filled.here() == {"a", "c"}


def test_what_an_attempt_uses_stays_beyond_the_limit(tmp_path):
    filled = Filled(tmp_path)
    filled.obtain("a", 60)
    filled.obtain("b", 60)
    assert filled.here() == {"a", "b"}
    filled.ended("a")
    filled.obtain("c", 10)
    assert filled.here() == {"b", "c"}


def test_a_model_that_no_disk_holds_is_refused_before_its_first_byte(tmp_path):
    with pytest.raises(InputError) as caught:
        Filled(tmp_path).obtain("a", 1 << 60)
    assert caught.value.reason == "DISK_FULL"
    assert "cache_dir" in str(caught.value)
