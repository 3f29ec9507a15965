"""Faults between boto3 and the store: retried or told in words, and never a half-published output.

Each test asks the door how often it really did the wrong thing.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

from agent.storage.errors import StorageError
from agent.storage.s3 import S3Storage, Transfers
from agent.uploader import manifest, publishing
from agent.uploader.failures import UploadError
from agent.uploader.manifest import Manifest
from agent.uploader.publishing import Output

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws import Aws

MIB = 1024 * 1024
URI = "s3://bucket/models/job-id/"
ROLE = "arn:aws:iam::123:role/FineTune"
#: The smallest parts that S3 takes, so that small files have several.
SMALL = Transfers(part_bytes=5 * MIB, range_bytes=5 * MIB, copy_part_bytes=5 * MIB, at_a_time=3)
EVERY_OPERATION = [
    "GetObject", "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
    "UploadPartCopy", "CopyObject", "ListObjectsV2", "DeleteObjects", "HeadObject", "AssumeRole",
]  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Path:
    directory = tmp_path / "output"
    (directory / "deep").mkdir(parents=True)
    (directory / "adapter.bin").write_bytes(b"".join(n.to_bytes(8, "big") for n in range(6 * MIB // 8)))
    (directory / "deep" / "small.json").write_text("{}")
    return directory


def output(store: Aws, *, uid: str = "01J", **settings: object) -> Output:
    access = store.access(role_arn=ROLE, settings=store.settings(**{"request_tries": 3, **settings}))
    return Output(S3Storage("bucket", "models/job-id/", access, SMALL), URI, uid, f"job-{uid}", 1)


def assert_whole(store: Aws, digest: str) -> None:
    found = store.contents(URI)
    assert set(found) == {"adapter.bin", "deep/small.json", "manifest.json"}
    parsed = Manifest.parse(found["manifest.json"])
    assert parsed.digest == digest
    for file in parsed.files:
        assert hashlib.sha256(found[file.path]).hexdigest() == file.sha256
    assert store.unfinished_uploads() == 0


def assert_none_or_whole(store: Aws) -> None:
    """What a reader of the prefix could believe: a manifest only where all that it lists is there."""
    found = store.contents(URI)
    if "manifest.json" in found:
        for file in Manifest.parse(found["manifest.json"]).files:
            assert hashlib.sha256(found[file.path]).hexdigest() == file.sha256


def published(store: Aws, made: Path, staged: list[str] | None = None, **settings: object) -> str:
    """Stage, unless that is done, and publish, each as a child of its own does. `staged` keeps the digest."""
    staged = [] if staged is None else staged
    if not staged:
        staged.append(publishing.stage(output(store, **settings), made))
    publishing.publish(output(store, **settings), staged[0])
    return staged[0]


def test_without_faults_every_operation_takes_part(store: Aws, made: Path) -> None:
    """What the other tests disturb is really on the way; large files go in parts, also from staging to their place."""
    assert_whole(store, published(store, made))
    assert set(EVERY_OPERATION) <= set(store.door.operations())
    assert store.door.operations().count("UploadPart") == 2
    assert store.door.operations().count("UploadPartCopy") == 2


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [(operation, 500, "InternalError") for operation in EVERY_OPERATION] + [("UploadPart", 503, "SlowDown")],
)
def test_the_first_requests_of_each_kind_fail_and_all_goes_well(
    store: Aws, made: Path, operation: str, status: int, code: str
) -> None:
    fault = store.door.refuse(operation, code=code, status=status, times=2)
    digest = published(store, made)
    assert fault.done == 2
    assert_whole(store, digest)


@pytest.mark.parametrize("operation", ["CompleteMultipartUpload", "CopyObject", "UploadPartCopy"])
def test_a_success_with_an_error_in_its_body_is_none(store: Aws, made: Path, operation: str) -> None:
    fault = store.door.refuse(operation, code="InternalError", status=200, times=2)
    digest = published(store, made)
    assert fault.done == 2
    assert_whole(store, digest)


@pytest.mark.parametrize("operation", ["CompleteMultipartUpload", "CopyObject", "UploadPartCopy"])
def test_a_success_that_stays_an_error_is_told_and_nothing_is_published(store: Aws, made: Path, operation: str) -> None:
    fault = store.door.refuse(operation, code="InternalError", status=200, message="We encountered an internal error.")
    with pytest.raises(UploadError, match=f"InternalError on {operation} .*We encountered") as told:
        published(store, made, request_tries=2)
    assert (told.value.reason, told.value.lasting) == ("STORAGE_UNAVAILABLE", False)
    assert fault.done >= 2
    assert "manifest.json" not in store.contents(URI)


def test_a_reset_in_mid_part_sends_that_part_again(store: Aws, made: Path) -> None:
    fault = store.door.cut_request("UploadPart", after_bytes=MIB, times=2)
    digest = published(store, made)
    assert fault.done == 2
    assert store.door.operations().count("UploadPart") == 4
    assert_whole(store, digest)


@pytest.mark.parametrize("operation", ["PutObject", "CompleteMultipartUpload", "CopyObject", "DeleteObjects"])
def test_an_answer_that_is_lost_after_the_deed_is_resolved(store: Aws, made: Path, operation: str) -> None:
    fault = store.door.lose_answer(operation, times=1)
    digest = published(store, made)
    assert fault.done == 1
    assert_whole(store, digest)


@pytest.mark.parametrize("after_bytes", [1, 5 * MIB])
def test_a_reading_goes_on_where_the_connection_broke(store: Aws, made: Path, after_bytes: int) -> None:
    digest = publishing.stage(output(store), made)
    storage = output(store).storage
    fault = store.door.cut_answer("GetObject", after_bytes=after_bytes, times=1)
    size, found = manifest.checksum(storage.read(".attempts/1/adapter.bin"))
    assert fault.done == 1
    assert (size, found) == (6 * MIB, hashlib.sha256((made / "adapter.bin").read_bytes()).hexdigest())
    assert digest


def test_a_reading_that_breaks_without_end_is_told(store: Aws, made: Path) -> None:
    publishing.stage(output(store), made)
    fault = store.door.cut_answer("GetObject", after_bytes=0, times=10_000)
    with pytest.raises(StorageError, match=r"artifacts\.output_uri: s3://bucket/models/job-id/\.attempts/1/adapter"):
        manifest.checksum(output(store).storage.read(".attempts/1/adapter.bin"))
    assert fault.done == 3


def test_a_download_whose_connections_break_is_whole(store: Aws, made: Path, tmp_path: Path) -> None:
    publishing.stage(output(store), made)
    fault = store.door.cut_answer("GetObject", after_bytes=MIB, times=2, key_ends="adapter.bin")
    output(store).storage.download(".attempts/1/adapter.bin", tmp_path / "got")
    assert fault.done == 2
    assert (tmp_path / "got").read_bytes() == (made / "adapter.bin").read_bytes()


def test_an_object_that_changes_while_it_is_read_is_never_a_mixture(store: Aws, made: Path) -> None:
    publishing.stage(output(store), made)
    pieces = output(store).storage.read(".attempts/1/adapter.bin")
    fault = store.door.cut_answer("GetObject", after_bytes=4 * MIB, times=1)
    first = next(pieces)
    store.put(f"{URI}.attempts/1/adapter.bin", b"x" * 6 * MIB)
    with pytest.raises(StorageError, match="PreconditionFailed"):
        manifest.checksum(pieces)
    assert fault.done == 1
    assert len(first) == MIB


@pytest.mark.parametrize("operation", ["UploadPart", "CopyObject", "GetObject"])
def test_a_store_that_falls_silent_is_asked_again(store: Aws, made: Path, operation: str) -> None:
    over = threading.Event()
    fault = store.door.hold(operation, until=over, times=1)
    try:
        digest = published(store, made, silence_seconds=0.5)
    finally:
        over.set()
    assert fault.done == 1
    assert_whole(store, digest)


@pytest.mark.parametrize("operation", [name for name in EVERY_OPERATION if name != "AssumeRole"])
def test_expired_credentials_are_renewed_in_the_midst_of_it(store: Aws, made: Path, operation: str) -> None:
    fault = store.door.refuse(operation, code="ExpiredToken", status=400, times=2)
    digest = published(store, made)
    assert fault.done == 2
    assert_whole(store, digest)


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart", "CopyObject", "GetObject", "DeleteObjects"])
def test_a_denial_in_the_midst_of_it_is_lasting_and_in_words(store: Aws, made: Path, operation: str) -> None:
    fault = store.door.refuse(operation, code="AccessDenied", status=403)
    with pytest.raises(UploadError, match=r"artifacts\.output_uri: s3://bucket/.*AccessDenied on .*allow s3:") as told:
        published(store, made)
    assert (told.value.reason, told.value.lasting) == ("STORAGE_DENIED", True)
    assert fault.done >= 1
    assert_none_or_whole(store)


def test_cut_off_at_any_request_the_prefix_never_lies_and_the_next_try_rolls_forward(store: Aws, made: Path) -> None:
    """Every request from the n-th on fails, for every n: as if the uploader, or the network, died there."""
    published(store, made)
    requests = len(store.door.calls)
    assert requests > 20
    for alive in range(0, requests, 3):
        store.reset()
        store.make_bucket()
        fault = store.door.refuse_after(alive, code="AccessDenied", status=403)
        staged: list[str] = []
        with pytest.raises(UploadError):
            published(store, made, staged)
        assert fault.done >= 1
        assert_none_or_whole(store)
        store.door.reset()
        assert_whole(store, published(store, made, staged))


def test_another_jobs_output_is_no_place_for_ours(store: Aws, made: Path) -> None:
    digest = published(store, made)
    for attempt in (publishing.check, lambda theirs: publishing.stage(theirs, made)):
        with pytest.raises(UploadError, match=r"artifacts\.output_uri: s3://bucket/models/job-id/ already") as told:
            attempt(output(store, uid="02K"))
        assert told.value.reason == "OUTPUT_EXISTS"
    assert_whole(store, digest)


def test_what_a_killed_upload_left_goes_with_its_staging(store: Aws, made: Path) -> None:
    client = store.client()
    key = "models/job-id/.attempts/1/adapter.bin"
    left = client.create_multipart_upload(Bucket="bucket", Key=key)
    client.upload_part(Bucket="bucket", Key=key, UploadId=left["UploadId"], PartNumber=1, Body=b"x" * 5 * MIB)
    assert store.unfinished_uploads() == 1
    assert_whole(store, published(store, made))


@pytest.mark.parametrize(("operation", "name"), [("UploadPart", "adapter.bin"), ("PutObject", "small.json")])
def test_a_content_altered_on_its_way_is_found_before_the_manifest_is_written(
    store: Aws, made: Path, operation: str, name: str
) -> None:
    fault = store.door.alter(operation, key_ends=name)
    with pytest.raises(UploadError, match=rf"{name} below s3://bucket/models/job-id/ is not what was granted") as told:
        published(store, made)
    assert (told.value.reason, told.value.lasting) == ("ARTIFACTS_LOST", True)
    assert fault.done == 1
    assert "manifest.json" not in store.contents(URI)


def test_a_check_leaves_nothing_and_a_bucket_that_is_not_there_is_found_by_it(store: Aws) -> None:
    publishing.check(output(store))
    assert store.contents("s3://bucket/") == {}
    store.client().delete_bucket(Bucket="bucket")
    with pytest.raises(UploadError, match="bucket 'bucket' does not exist") as told:
        publishing.check(output(store))
    assert (told.value.reason, told.value.lasting) == ("BUCKET_NOT_FOUND", True)
