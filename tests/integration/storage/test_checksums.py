"""Whether a store is told CRCs of what is put there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.storage.access import Access, StorageSettings
from agent.storage.clients import Clients
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


def test_aws_is_told_them_unless_the_platform_says_otherwise() -> None:
    def told(*, checksums: bool | None) -> str:
        access = Access(settings=StorageSettings(region="us-east-1", s3_checksums=checksums))
        return str(Clients(access, connections=1).s3().meta.config.request_checksum_calculation)

    assert [told(checksums=each) for each in (None, True, False)] == [
        "when_supported",
        "when_supported",
        "when_required",
    ]
