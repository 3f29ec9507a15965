"""Checkpoints to shared storage and back: whole ones only, newest first, never mixed, never more than wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent import checkpoint
from agent.storage import open_storage
from agent.storage.access import Access
from agent.uploader import checkpoints
from agent.uploader.failures import UploadError
from agent.uploader.publishing import Output, publish, stage

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage

UID = "01J"
NONE_LEFT = "no checkpoint of an earlier attempt can be had; training begins at step 0"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(checkpoint.stored_below((tmp_path / "out").as_uri(), UID), Access())


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return _attempt(tmp_path, "first")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return _attempt(tmp_path, "second")


def _attempt(tmp_path: Path, name: str) -> Path:
    directory = tmp_path / name
    directory.mkdir()
    return directory


def save(attempt: Path, step: int, words: str = "weights") -> None:
    writers = {name: lambda path: path.write_text(f"{words} {step}") for name in ("a.safetensors", "state.json")}
    checkpoint.save(attempt / checkpoint.DIRECTORY, step, writers, keep=9)  # type: ignore[arg-type]


def places(tmp_path: Path) -> list[str]:
    root = tmp_path / "out" / ".checkpoints" / UID
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def here(attempt: Path) -> list[str]:
    root = attempt / checkpoint.DIRECTORY
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def test_the_newest_comes_back_as_it_was(tmp_path: Path, storage: Storage, first: Path, second: Path) -> None:
    save(first, 3)
    save(first, 6)
    stored = checkpoints.upload(storage, first, 1, keep=2)
    assert stored["step"] == 6
    assert places(tmp_path) == ["00000006.1"]
    assert checkpoints.fetch(storage, second) == {"stored": 6, "told": []}
    assert here(second) == ["00000006"]
    found = checkpoint.verified(second / checkpoint.DIRECTORY / "00000006")
    assert (found.manifest_digest, found.size_bytes) == (stored["manifest_digest"], stored["size_bytes"])
    assert here(first) == ["00000003", "00000006"]


def test_no_more_are_kept_than_wanted_and_cut_off_ones_do_not_count(
    tmp_path: Path, storage: Storage, first: Path
) -> None:
    for step in (3, 6, 9):
        save(first, step)
        checkpoints.upload(storage, first, 1, keep=2)
    assert places(tmp_path) == ["00000006.1", "00000009.1"]
    storage.put_bytes("00000007.1/a.safetensors", b"cut off")
    save(first, 12)
    checkpoints.upload(storage, first, 2, keep=2)
    assert places(tmp_path) == ["00000009.1", "00000012.2"]


@pytest.mark.parametrize("fault", ["altered", "missing", "no manifest", "stranger"])
def test_a_broken_one_is_passed_over_for_the_one_before_in_words(
    tmp_path: Path, storage: Storage, first: Path, second: Path, fault: str
) -> None:
    for step in (3, 6):
        save(first, step)
        checkpoints.upload(storage, first, 1, keep=2)
    victim = tmp_path / "out" / ".checkpoints" / UID / "00000006.1"
    if fault == "altered":
        (victim / "a.safetensors").write_text("weights 7")
    elif fault == "stranger":
        (victim / "extra.bin").write_text("not listed")
    else:
        (victim / ("state.json" if fault == "missing" else "manifest.json")).unlink()
    answer = checkpoints.fetch(storage, second)
    assert answer["stored"] == 3
    [told] = answer["told"]
    assert told.startswith("the checkpoint of step 6 is passed over: ")
    assert here(second) == ["00000003"]


def test_with_none_that_is_whole_it_says_that_it_begins_anew(
    tmp_path: Path, storage: Storage, first: Path, second: Path
) -> None:
    assert checkpoints.fetch(storage, second) == {"stored": 0, "told": [NONE_LEFT]}
    save(first, 3)
    checkpoints.upload(storage, first, 1, keep=2)
    (tmp_path / "out" / ".checkpoints" / UID / "00000003.1" / "state.json").write_text("?")
    told = checkpoints.fetch(storage, second)["told"]
    assert told[1:] == [NONE_LEFT]
    assert told[0].startswith("the checkpoint of step 3 is passed over: ")
    assert here(second) == []


def test_one_of_its_own_that_is_as_new_is_preferred_and_a_newer_one_is_not_hidden(
    storage: Storage, first: Path, second: Path
) -> None:
    save(first, 6, "stored")
    checkpoints.upload(storage, first, 1, keep=2)
    save(second, 6, "own")
    assert checkpoints.fetch(storage, second) == {"stored": 6, "told": []}
    own = second / checkpoint.DIRECTORY / "00000006" / "a.safetensors"
    assert own.read_text() == "own 6"
    save(first, 9, "stored")
    checkpoints.upload(storage, first, 1, keep=2)
    assert checkpoints.fetch(storage, second)["stored"] == 9
    assert here(second) == ["00000006", "00000009"]


def test_a_broken_one_of_its_own_is_replaced(storage: Storage, first: Path, second: Path) -> None:
    save(first, 6, "stored")
    checkpoints.upload(storage, first, 1, keep=2)
    save(second, 6, "own")
    (second / checkpoint.DIRECTORY / "00000006" / "a.safetensors").write_text("torn")
    assert checkpoints.fetch(storage, second)["stored"] == 6
    assert (second / checkpoint.DIRECTORY / "00000006" / "a.safetensors").read_text() == "stored 6"


def test_names_that_lead_elsewhere_are_not_followed(tmp_path: Path, storage: Storage, second: Path) -> None:
    place = tmp_path / "out" / ".checkpoints" / UID / "00000006.1"
    (place / "deeper").mkdir(parents=True)
    (place / "deeper" / "x").write_text("x")
    (place / ".hidden").write_text("x")
    (place / "manifest.json").write_text('{"format_version": 1, "step": 6, "files": {"../../x": {}}}')
    told = checkpoints.fetch(storage, second)["told"]
    assert told[0].startswith("the checkpoint of step 6 is passed over: ")
    assert here(second) == []


def test_a_storage_that_takes_nothing_is_told_and_leaves_the_trainers_checkpoint(
    tmp_path: Path, storage: Storage, first: Path
) -> None:
    save(first, 3)
    (tmp_path / "out").write_text("a file where a directory should be")
    with pytest.raises(UploadError):
        checkpoints.upload(storage, first, 1, keep=2)
    assert here(first) == ["00000003"]


def test_publishing_removes_them_and_never_takes_them_for_output(tmp_path: Path, storage: Storage, first: Path) -> None:
    save(first, 3)
    checkpoints.upload(storage, first, 1, keep=2)
    (first / "output").mkdir()
    (first / "output" / "adapter.bin").write_text("adapter")
    uri = (tmp_path / "out").as_uri()
    output = Output(open_storage(uri, Access()), uri, UID, "job", 1)
    published = publish(output, stage(output, first / "output"))
    assert [artifact["path"] for artifact in published["artifacts"]] == ["adapter.bin"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter.bin", "manifest.json"]
    (first / "output" / ".checkpoints").mkdir()
    (first / "output" / ".checkpoints" / "x").write_text("x")
    with pytest.raises(UploadError, match="cannot be published"):
        stage(output, first / "output")
