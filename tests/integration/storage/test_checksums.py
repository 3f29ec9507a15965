"""Whether a store is told CRCs of what is put there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from agent.storage.access import Access, StorageSettings
from agent.storage.checksums import of_whole
from agent.storage.clients import Clients
from agent.storage.errors import StorageError
from agent.storage.s3 import S3Storage, Transfers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws import Aws

MIB = 1024 * 1024


def put(store: Aws, source: Path, *, checksums: bool | None) -> dict[str, object]:
    """Put a content of two parts; what the store then says of it."""
    source.write_bytes(bytes(6 * MIB))
    access = store.access(settings=store.settings(s3_checksums=checksums))
    S3Storage("bucket", "", access, Transfers(part_bytes=5 * MIB)).put("file", source)
    return {**store.client().head_object(Bucket="bucket", Key="file", ChecksumMode="ENABLED")}


def test_a_store_keeps_the_crc_of_what_was_put(store: Aws, tmp_path: Path) -> None:
    assert put(store, tmp_path / "source", checksums=True)["ChecksumCRC32"]


@pytest.mark.parametrize("checksums", [None, False])
def test_a_store_that_may_not_know_crcs_is_told_none(store: Aws, tmp_path: Path, *, checksums: bool | None) -> None:
    assert "ChecksumCRC32" not in put(store, tmp_path / "source", checksums=checksums)


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_what_came_altered_is_told_by_the_stores_checksum_and_no_file_is_left(
    store: Aws, tmp_path: Path, algorithm: Literal["CRC32", "SHA1", "SHA256"]
) -> None:
    content = bytes(range(256)) * 1000
    store.client().put_object(Bucket="bucket", Key="file", Body=content, ChecksumAlgorithm=algorithm)
    storage = S3Storage("bucket", "", store.access())
    storage.download("file", tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == content
    fault = store.door.alter_answer("GetObject", times=2)
    with pytest.raises(StorageError, match=f"what came has another {algorithm} than the store says"):
        storage.download("file", tmp_path / "altered")
    assert fault.done == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]
    store.door.alter_answer("GetObject", times=1)
    storage.download("file", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ({"ChecksumCRC32": "AAAAAA==", "ChecksumType": "FULL_OBJECT"}, "CRC32"),
        ({"ChecksumCRC32": "AAAAAA==", "ChecksumSHA256": "AAAA"}, "SHA256"),
        ({"ChecksumCRC32": "AAAAAA==-2"}, None),
        ({"ChecksumCRC32": "AAAAAA==", "ChecksumType": "COMPOSITE"}, None),
        ({"ChecksumCRC32": "AAAAAA==", "ETag": '"0123-3"'}, None),
        ({"ChecksumCRC64NVME": "AAAAAAAAAAA=", "ChecksumType": "FULL_OBJECT"}, None),
        ({"ChecksumCRC32": "?"}, None),
        ({}, None),
    ],
)
def test_only_a_checksum_of_the_whole_that_python_computes_counts(head: dict[str, str], kind: str | None) -> None:
    found = of_whole(head)
    assert (found.kind if found else None) == kind


def test_aws_is_told_them_unless_the_platform_says_otherwise() -> None:
    def told(*, checksums: bool | None) -> str:
        access = Access(settings=StorageSettings(region="us-east-1", s3_checksums=checksums))
        return str(Clients(access, connections=1).s3().meta.config.request_checksum_calculation)

    assert [told(checksums=each) for each in (None, True, False)] == [
        "when_supported",
        "when_supported",
        "when_required",
    ]
