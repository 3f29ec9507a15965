"""Checkpoints in S3: stored, listed, fetched and pruned through the door that sees every call and misbehaves as told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent import checkpoint
from agent.storage.s3 import S3Storage, Transfers
from agent.uploader import checkpoints
from agent.uploader.failures import UploadError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws import Aws

MIB = 1024 * 1024
UID = "01J"
PREFIX = f"models/job-id/.checkpoints/{UID}/"
URI = f"s3://bucket/{PREFIX}"
#: The smallest parts that S3 takes: the optimizer's file has three.
SMALL = Transfers(part_bytes=5 * MIB, range_bytes=5 * MIB, copy_part_bytes=5 * MIB, at_a_time=2)
FILES = {"manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors"}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    (tmp_path / "first").mkdir()
    return tmp_path / "first"


@pytest.fixture
def second(tmp_path: Path) -> Path:
    (tmp_path / "second").mkdir()
    return tmp_path / "second"


def storage(store: Aws) -> S3Storage:
    """A child's own: nothing is remembered from one to the next."""
    return S3Storage("bucket", PREFIX, store.access(settings=store.settings(request_tries=3)), SMALL)


def save(attempt: Path, step: int, *, large: bool = False) -> None:
    content = b"".join(n.to_bytes(8, "big") for n in range(12 * MIB // 8)) if large else f"moments {step}".encode()
    writers = {
        "weights.safetensors": lambda path: path.write_bytes(f"weights {step}".encode()),
        "optimizer.safetensors": lambda path: path.write_bytes(content),
        "state.json": lambda path: path.write_bytes(b"{}"),
    }
    checkpoint.save(attempt / checkpoint.DIRECTORY, step, writers, keep=9)  # type: ignore[arg-type]


def upload(store: Aws, attempt: Path, number: int = 1) -> int:
    return int(checkpoints.upload(storage(store), attempt, number, keep=2)["step"])


def stored(store: Aws) -> dict[str, set[str]]:
    """The files of each place."""
    found: dict[str, set[str]] = {}
    for name in store.contents(URI):
        place, _, file = name.partition("/")
        found.setdefault(place, set()).add(file)
    return found


def here(attempt: Path) -> list[int]:
    """The steps of the whole ones on this node."""
    root = attempt / checkpoint.DIRECTORY
    return [checkpoint.verified(path).step for path in sorted(root.iterdir())] if root.exists() else []


def test_the_newest_two_are_kept_and_another_node_gets_the_newest(store: Aws, first: Path, second: Path) -> None:
    for step in (3, 6, 9):
        save(first, step)
        assert upload(store, first) == step
    assert stored(store) == {"00000006.1": FILES, "00000009.1": FILES}
    assert checkpoints.fetch(storage(store), second) == {"stored": 9, "told": []}
    assert here(second) == [9]
    save(second, 12)
    assert upload(store, second, number=2) == 12
    assert stored(store) == {"00000009.1": FILES, "00000012.2": FILES}


def test_a_reset_in_mid_part_is_tried_again(store: Aws, first: Path, second: Path) -> None:
    save(first, 3, large=True)
    fault = store.door.cut_request("UploadPart", after_bytes=MIB)
    assert upload(store, first) == 3
    assert fault.done == 1
    assert store.door.operations().count("UploadPart") == 4, "three parts, one of them twice"
    assert store.unfinished_uploads() == 0
    assert checkpoints.fetch(storage(store), second)["stored"] == 3
    assert here(second) == [3]


def test_a_store_that_resets_every_part_gets_no_manifest_and_the_one_before_is_used(
    store: Aws, first: Path, second: Path
) -> None:
    save(first, 3)
    upload(store, first)
    save(first, 6, large=True)
    fault = store.door.cut_request("UploadPart", after_bytes=MIB, times=100)
    with pytest.raises(UploadError) as error:
        upload(store, first)
    assert not error.value.lasting
    assert fault.done >= 3
    assert store.unfinished_uploads() == 0
    assert stored(store) == {"00000003.1": FILES}
    assert checkpoints.fetch(storage(store), second) == {"stored": 3, "told": []}
    store.door.reset()
    assert upload(store, first) == 6, "what failed is stored later"
    assert stored(store)["00000006.1"] == FILES


def test_one_that_was_cut_off_between_its_files_is_passed_over_in_words(store: Aws, first: Path, second: Path) -> None:
    save(first, 3)
    upload(store, first)
    save(first, 6)
    fault = store.door.refuse("PutObject", code="InternalError", status=500, key_ends=checkpoint.MANIFEST)
    with pytest.raises(UploadError):
        upload(store, first)
    assert fault.done >= 1
    assert stored(store)["00000006.1"] == FILES - {checkpoint.MANIFEST}
    answer = checkpoints.fetch(storage(store), second)
    assert answer["stored"] == 3
    assert answer["told"] == [
        "the checkpoint of step 6 is passed over: manifest.json is missing: it was not stored to its end"
    ]
    assert here(second) == [3]


def test_a_reset_while_one_is_fetched_is_tried_again(store: Aws, first: Path, second: Path) -> None:
    save(first, 3, large=True)
    upload(store, first)
    fault = store.door.cut_answer("GetObject", after_bytes=MIB, key_ends="optimizer.safetensors")
    assert checkpoints.fetch(storage(store), second)["stored"] == 3
    assert fault.done == 1
    assert here(second) == [3]


def test_what_was_altered_in_the_store_is_passed_over_for_the_one_before(store: Aws, first: Path, second: Path) -> None:
    for step in (3, 6):
        save(first, step)
        upload(store, first)
    store.put(f"{URI}00000006.1/optimizer.safetensors", b"moments 7")
    answer = checkpoints.fetch(storage(store), second)
    assert answer["stored"] == 3
    assert [words.split(":")[0] for words in answer["told"]] == ["the checkpoint of step 6 is passed over"]


def test_one_that_was_pruned_while_it_is_fetched_is_passed_over(store: Aws, first: Path, second: Path) -> None:
    """An attempt that was given up with its node goes on storing, and prunes."""
    for step in (3, 6):
        save(first, step)
        upload(store, first)
    fault = store.door.refuse("GetObject", code="NoSuchKey", status=404, key_ends="00000006.1/state.json")
    answer = checkpoints.fetch(storage(store), second)
    assert fault.done >= 1
    assert answer["stored"] == 3
    assert here(second) == [3]
