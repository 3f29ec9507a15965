"""Staging and publishing: idempotent, forward only, and never over another job's output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent.storage import UnsupportedURIError, open_storage
from agent.storage.access import Access
from agent.uploader.audit_file import AuditShipper
from agent.uploader.event_files import EventFileShipper
from agent.uploader.failures import UploadError
from agent.uploader.manifest import Manifest
from agent.uploader.publishing import Output, discard, publish, stage
from agent.uploader.segments import SEGMENT_BYTES, SegmentShipper

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    directory = tmp_path / "output"
    (directory / "nested").mkdir(parents=True)
    (directory / "adapter.bin").write_bytes(b"weights" * 1000)
    (directory / "nested" / "notes.md").write_text("hä?")
    (directory / "manifest.json").write_text("the trainer's own, which is not published")
    return directory


def output(tmp_path: Path, *, uid: str = "01J", attempt: int = 1, overwrite: bool = False) -> Output:
    uri = (tmp_path / "a b%25").as_uri()
    return Output(open_storage(uri, Access()), uri, uid, f"job-{uid}", attempt, overwrite)


def place(tmp_path: Path) -> Path:
    return tmp_path / "a b%25"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_what_was_staged_is_published_whole_with_its_manifest(tmp_path: Path, made: Path) -> None:
    digest = stage(output(tmp_path), made)
    assert set(contents(place(tmp_path))) == {
        ".attempts/1/adapter.bin",
        ".attempts/1/nested/notes.md",
        ".attempts/1/manifest.json",
    }
    published = publish(output(tmp_path), digest)
    found = contents(place(tmp_path))
    assert set(found) == {"adapter.bin", "nested/notes.md", "manifest.json"}
    assert found["adapter.bin"] == b"weights" * 1000
    manifest = Manifest.parse(found["manifest.json"])
    assert manifest.digest == digest == published["manifest_digest"]
    assert [artifact["path"] for artifact in published["artifacts"]] == ["adapter.bin", "nested/notes.md"]


def test_the_same_output_has_the_same_digest(tmp_path: Path, made: Path) -> None:
    assert stage(output(tmp_path), made) == stage(output(tmp_path), made)


def test_publishing_again_changes_nothing(tmp_path: Path, made: Path) -> None:
    digest = stage(output(tmp_path), made)
    first = publish(output(tmp_path), digest)
    before = contents(place(tmp_path))
    assert publish(output(tmp_path), digest) == first
    assert contents(place(tmp_path)) == before


@pytest.mark.parametrize("lost", ["adapter.bin", "nested/notes.md", "manifest.json"])
def test_a_half_published_output_is_rolled_forward(tmp_path: Path, made: Path, lost: str) -> None:
    digest = stage(output(tmp_path), made)
    for name in {"adapter.bin", "nested/notes.md"} - {lost}:
        (place(tmp_path) / name).parent.mkdir(exist_ok=True)
        (place(tmp_path) / name).write_bytes(b"half")
    publish(output(tmp_path), digest)
    assert contents(place(tmp_path))["adapter.bin"] == b"weights" * 1000


def test_without_staging_and_without_the_output_the_artifacts_are_lost(tmp_path: Path, made: Path) -> None:
    digest = stage(output(tmp_path), made)
    discard(output(tmp_path))
    with pytest.raises(UploadError) as caught:
        publish(output(tmp_path), digest)
    assert caught.value.reason == "ARTIFACTS_LOST"


def test_a_file_that_vanished_from_staging_is_named(tmp_path: Path, made: Path) -> None:
    digest = stage(output(tmp_path), made)
    (place(tmp_path) / ".attempts" / "1" / "adapter.bin").unlink()
    with pytest.raises(UploadError, match=r"adapter\.bin vanished") as caught:
        publish(output(tmp_path), digest)
    assert caught.value.reason == "ARTIFACTS_LOST"


def test_a_published_file_that_vanished_without_staging_is_lost(tmp_path: Path, made: Path) -> None:
    digest = stage(output(tmp_path), made)
    publish(output(tmp_path), digest)
    (place(tmp_path) / "adapter.bin").unlink()
    with pytest.raises(UploadError, match=r"adapter\.bin .* nor is it in staging") as caught:
        publish(output(tmp_path), digest)
    assert caught.value.reason == "ARTIFACTS_LOST"


def test_a_staged_file_that_was_altered_is_never_called_published(tmp_path: Path, made: Path) -> None:
    digest = stage(output(tmp_path), made)
    (place(tmp_path) / ".attempts" / "1" / "adapter.bin").write_bytes(b"altered")
    with pytest.raises(UploadError, match=r"adapter\.bin .* is not what was granted, nor .* in staging") as caught:
        publish(output(tmp_path), digest)
    assert caught.value.reason == "ARTIFACTS_LOST"


@pytest.mark.parametrize("theirs", [b'{"uid":"other","job_id":"x","attempt":1,"files":[]}', b"no manifest at all"])
def test_a_foreign_manifest_is_an_obstacle_unless_overwriting_was_allowed(
    tmp_path: Path, made: Path, theirs: bytes
) -> None:
    place(tmp_path).mkdir()
    (place(tmp_path) / "manifest.json").write_bytes(theirs)
    with pytest.raises(UploadError) as caught:
        stage(output(tmp_path), made)
    assert caught.value.reason == "OUTPUT_EXISTS"
    digest = stage(output(tmp_path, overwrite=True), made)
    publish(output(tmp_path, overwrite=True), digest)
    assert Manifest.parse((place(tmp_path) / "manifest.json").read_bytes()).uid == "01J"


def test_a_foreign_manifest_that_appears_after_staging_is_not_overwritten(tmp_path: Path, made: Path) -> None:
    digest = stage(output(tmp_path), made)
    (place(tmp_path) / "manifest.json").write_text(
        json.dumps({"uid": "other", "job_id": "x", "attempt": 1, "files": []})
    )
    with pytest.raises(UploadError) as caught:
        publish(output(tmp_path), digest)
    assert caught.value.reason == "OUTPUT_EXISTS"


def test_a_link_out_of_the_output_is_refused(tmp_path: Path, made: Path) -> None:
    (made / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(UploadError, match="output/passwd is neither a file nor a directory"):
        stage(output(tmp_path), made)


def test_an_empty_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    with pytest.raises(UploadError, match="left nothing"):
        stage(output(tmp_path), tmp_path / "output")


def test_a_place_that_is_a_file_is_told_in_words(tmp_path: Path, made: Path) -> None:
    place(tmp_path).write_text("in the way")
    with pytest.raises(UploadError) as caught:
        stage(output(tmp_path), made)
    assert caught.value.reason == "STORAGE_DENIED"
    assert caught.value.lasting


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_a_manifest_that_leads_out_of_the_output_is_none(path: str) -> None:
    document = {"uid": "u", "job_id": "j", "attempt": 1, "files": [{"path": path, "size_bytes": 1, "sha256": "s"}]}
    with pytest.raises(ValueError, match="leads out"):
        Manifest.parse(json.dumps(document).encode())


@pytest.mark.parametrize("uri", ["s3:///x", "file://elsewhere/x", "relative", "https://x/y", "file:x"])
def test_a_place_that_no_storage_knows_is_refused(uri: str) -> None:
    with pytest.raises(UnsupportedURIError):
        open_storage(uri, Access())


def test_every_ranks_log_goes_out_in_segments_and_a_new_shipper_goes_on(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    storage = open_storage((tmp_path / "shipped").as_uri(), Access())
    shipper = SegmentShipper(storage, tmp_path, 2)
    assert not shipper.ship()
    (logs / "rank-0.log").write_bytes(b"a" * (SEGMENT_BYTES + 10))
    (logs / "uploader.log").write_bytes(b"ours")
    assert shipper.ship(at_least_bytes=SEGMENT_BYTES)
    assert not shipper.ship(at_least_bytes=SEGMENT_BYTES)
    (logs / "rank-1.log").write_bytes(b"later")
    again = SegmentShipper(storage, tmp_path, 2)
    assert again.ship()
    assert not again.ship()
    (logs / "rank-1.log").write_bytes(b"later and more")
    assert SegmentShipper(storage, tmp_path, 2).ship()
    shipped = contents(tmp_path / "shipped")
    assert {name: len(data) for name, data in shipped.items()} == {
        "attempt-2/rank-0/000001.log": SEGMENT_BYTES,
        "attempt-2/rank-0/000002.log": 10,
        "attempt-2/rank-1/000001.log": 5,
        "attempt-2/rank-1/000002.log": 9,
    }


def test_event_files_go_out_whole_when_they_grew_and_it_is_time(tmp_path: Path) -> None:
    now = 0.0
    events = tmp_path / "tensorboard"
    storage = open_storage((tmp_path / "shipped").as_uri(), Access())
    shipper = EventFileShipper(storage, tmp_path, clock=lambda: now)
    shipper.ship(now=True)
    assert not (tmp_path / "shipped").exists()
    events.mkdir()
    file = events / "events.out.tfevents.000002"
    file.write_bytes(b"one")
    shipper.ship()
    assert contents(tmp_path / "shipped") == {f"tensorboard/{file.name}": b"one"}
    file.write_bytes(b"one, two")
    shipper.ship()
    assert contents(tmp_path / "shipped") == {f"tensorboard/{file.name}": b"one"}, "too early"
    now = 31.0
    shipper.ship()
    assert contents(tmp_path / "shipped") == {f"tensorboard/{file.name}": b"one, two"}
    file.write_bytes(b"one, two, three")
    shipper.ship(now=True)
    assert contents(tmp_path / "shipped") == {f"tensorboard/{file.name}": b"one, two, three"}


def test_an_audit_is_shipped_once_it_is_there_beside_the_attempt_s_logs(tmp_path: Path):
    storage = open_storage((tmp_path / "shipped").as_uri(), Access())
    shipper = AuditShipper(storage, tmp_path, 2)
    shipper.ship()
    assert not (tmp_path / "shipped").exists()
    (tmp_path / "audit.json").write_text("{}")
    shipper.ship()
    assert contents(tmp_path / "shipped") == {"attempt-2/audit.json": b"{}"}
    (tmp_path / "shipped" / "attempt-2" / "audit.json").unlink()
    shipper.ship()
    assert not contents(tmp_path / "shipped"), "twice"
