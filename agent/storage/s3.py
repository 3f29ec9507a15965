"""S3, and stores that speak its language, as storage.

Large contents go in parts, several at a time, each signed with its SHA-256, which the store checks; what was put is
asked for its size before it counts as stored. An ETag only tells whether an object is still the same, never what is in
it: the content is proven by whoever has its SHA-256 (agent.uploader.publishing reads all of it back), and a download
by the checksum of the whole object, where the store keeps one (agent.storage.checksums).

botocore tries each request some times (Clients); here a whole object is tried again, with new credentials where the
store calls the old ones expired. After that the caller decides.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.subscribers import BaseSubscriber

from agent.storage.checksums import of_whole
from agent.storage.clients import Clients
from agent.storage.errors import ObjectNotFoundError, StorageError
from agent.storage.file import sync_folder
from agent.storage.refusals import FAILURES, Place, is_expired, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

    from agent.storage.access import Access
    from agent.storage.checksums import Checksum

_T = TypeVar("_T")
_MIB = 1024 * 1024
_PIECE_BYTES = _MIB
_RENEWALS = 2
_TRIES = 2
_BROKEN_READS = 3
_FIRST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Transfers:
    """How contents are cut when they are put, downloaded and copied.

    S3 takes no part below 5 MiB but the last, and no copy in one piece above 5 GiB. A range is larger than a part:
    there are stores that look at a whole object for each.
    """

    part_bytes: int = 16 * _MIB
    range_bytes: int = 32 * _MIB
    copy_part_bytes: int = 512 * _MIB
    at_a_time: int = 10


class S3Storage:
    """See Storage. `prefix` ends at a `/`, given or not; keys are taken as they are written, without unquoting."""

    def __init__(self, bucket: str, prefix: str, access: Access, transfers: Transfers | None = None) -> None:
        self._bucket = bucket
        self._prefix = prefix if prefix.endswith("/") or not prefix else prefix + "/"
        self._access = access
        self._transfers = transfers or Transfers()
        self._clients = Clients(access, connections=self._transfers.at_a_time)

    def put(self, name: str, source: Path) -> None:
        """See Storage."""
        self._insistently(name, lambda client: self._put(client, name, source))

    def put_bytes(self, name: str, data: bytes) -> None:
        """See Storage."""
        self._insistently(name, lambda client: client.put_object(Bucket=self._bucket, Key=self._key(name), Body=data))

    def copy(self, name: str, target: str) -> None:
        """See Storage."""
        self._insistently(name, lambda client: self._copy(client, name, target))

    def read(self, name: str) -> Iterator[bytes]:
        """See Storage. A connection that breaks is taken up where it broke, as long as the object is the same."""
        place, position, tag, fruitless = self._place(name), 0, "", 0
        while True:
            answer = self._opened(name, position, tag)
            if answer is None:
                return
            tag, before = answer["ETag"], position
            pieces = answer["Body"].iter_chunks(_PIECE_BYTES)
            while True:
                try:
                    piece = next(pieces, b"")
                except FAILURES as error:
                    fruitless = fruitless + 1 if position == before else 0
                    if fruitless == _BROKEN_READS:
                        raise translate(error, place) from error
                    break
                if not piece:
                    return
                position += len(piece)
                yield piece

    def download(self, name: str, target: Path) -> None:
        """See Storage."""
        self._insistently(name, lambda client: self._download(client, name, target))

    def size(self, name: str) -> int:
        """See Storage."""
        return self._insistently(name, lambda client: self._stat(client, name)[0])

    def version(self, name: str) -> str:
        """See Storage."""
        return self._insistently(name, lambda client: self._stat(client, name)[1])

    def exists(self, name: str) -> bool:
        """See Storage."""
        try:
            self.size(name)
        except ObjectNotFoundError:
            return False
        return True

    def names(self) -> Iterator[str]:
        """See Storage."""
        found = self._insistently("", lambda client: list(self._listed(client, self._prefix)))
        # A key that ends in `/` is a folder that some console drew.
        yield from (key.removeprefix(self._prefix) for key in found if not key.endswith("/"))

    def remove_below(self, prefix: str) -> None:
        """See Storage. What unfinished uploads left there goes too, as far as these credentials may see it."""
        self._insistently(prefix, lambda client: self._remove(client, self._key(prefix) + "/"))
        self._insistently(prefix, lambda client: self._abort_uploads(client, self._key(prefix) + "/"))

    def _put(self, client: S3Client, name: str, source: Path) -> None:
        size = source.stat().st_size
        with self._manager(client, self._transfers.part_bytes) as manager:
            manager.upload(str(source), self._bucket, self._key(name)).result()
        stored, _ = self._stat(client, name)
        if stored != size:
            raise StorageError(f"{self._access.field}: {self._place(name)}: {stored} of {size} bytes were put")

    def _copy(self, client: S3Client, name: str, target: str) -> None:
        size, tag = self._stat(client, name)
        if size >= self._transfers.copy_part_bytes:
            self._abort_uploads(client, self._key(target))  # what an earlier try of this copy left
        source: Any = {"Bucket": self._bucket, "Key": self._key(name)}
        with self._manager(client, self._transfers.copy_part_bytes) as manager:
            manager.copy(source, self._bucket, self._key(target), subscribers=[_Known(size, tag)]).result()
        copied, _ = self._stat(client, target)
        if copied != size:
            raise StorageError(f"{self._access.field}: {self._place(target)}: {copied} of {size} bytes were copied")

    def _download(self, client: S3Client, name: str, target: Path) -> None:
        size, tag, kept = self._stat_with_checksum(client, name)
        aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with self._manager(client, self._transfers.range_bytes) as manager:
                manager.download(self._bucket, self._key(name), str(aside), subscribers=[_Known(size, tag)]).result()
            found = aside.stat().st_size
            if found != size:
                raise StorageError(f"{self._access.field}: {self._place(name)}: {found} of {size} bytes came")
            if kept is not None and not kept.fits(aside):
                raise StorageError(
                    f"{self._access.field}: {self._place(name)}: what came has another {kept.kind} than the store says"
                )
            with aside.open("rb") as stream:
                os.fsync(stream.fileno())
            aside.rename(target)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(target.parent)

    def _stat_with_checksum(self, client: S3Client, name: str) -> tuple[int, str, Checksum | None]:
        """As `_stat`, with the checksum of the whole where the store keeps one that Python computes."""
        try:
            head = client.head_object(Bucket=self._bucket, Key=self._key(name), ChecksumMode="ENABLED")
        except ClientError:
            return (*self._stat(client, name), None)  # who may read need not be allowed to ask for checksums
        return head["ContentLength"], head["ETag"], of_whole(head)

    def _stat(self, client: S3Client, name: str) -> tuple[int, str]:
        """Size and ETag. A refused HEAD has no words, and cannot tell a bucket from an object: then by GET."""
        try:
            head = client.head_object(Bucket=self._bucket, Key=self._key(name))
        except ClientError as error:
            if error.operation_name != "HeadObject":
                raise
            return self._stat_in_words(client, name)
        return head["ContentLength"], head["ETag"]

    def _stat_in_words(self, client: S3Client, name: str) -> tuple[int, str]:
        try:
            answer = client.get_object(Bucket=self._bucket, Key=self._key(name), Range="bytes=0-0")
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "InvalidRange":
                raise
            return 0, ""
        answer["Body"].read()
        return int(answer["ContentRange"].rpartition("/")[2]), answer["ETag"]

    def _opened(self, name: str, position: int, tag: str) -> GetObjectOutputTypeDef | None:
        """The object from a position on; None: there is nothing after it."""
        where: dict[str, str] = {"Range": f"bytes={position}-", "IfMatch": tag} if position else {}

        def get(client: S3Client) -> GetObjectOutputTypeDef | None:
            try:
                return client.get_object(Bucket=self._bucket, Key=self._key(name), **where)  # type: ignore[arg-type]
            except ClientError as error:
                if position and error.response.get("Error", {}).get("Code") == "InvalidRange":
                    return None
                raise

        return self._insistently(name, get)

    def _listed(self, client: S3Client, prefix: str) -> Iterator[str]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            yield from (entry["Key"] for entry in page.get("Contents", []))

    def _remove(self, client: S3Client, prefix: str) -> None:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            keys = [entry["Key"] for entry in page.get("Contents", [])]
            if not keys:
                continue
            answer = client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
            for error in answer.get("Errors", []):
                raise ClientError(
                    {"Error": {"Code": error.get("Code", ""), "Message": error.get("Message", "")}}, "DeleteObjects"
                )

    def _abort_uploads(self, client: S3Client, prefix: str) -> None:
        """Give up unfinished uploads, which are paid for, as far as these credentials may see and end them."""
        try:
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix):
                for upload in page.get("Uploads", []):
                    client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except ClientError as error:
            passing = type(translate(error, Place(self._bucket, prefix, self._access))) is StorageError
            if passing or is_expired(error):
                raise

    def _insistently(self, name: str, work: Callable[[S3Client], _T]) -> _T:
        """Do it, with new credentials or once more where that may help.

        Raises:
            StorageError: it could not be done.
        """
        renewals, tries, pause = 0, 0, _FIRST_PAUSE_SECONDS
        while True:
            try:
                return work(self._clients.s3())
            except FAILURES as error:
                if is_expired(error) and renewals < _RENEWALS:
                    renewals += 1
                    self._clients.renew()
                    continue
                told = translate(error, self._place(name))
                told.__cause__ = error
            except StorageError as error:
                told = error
            tries += 1
            if type(told) is not StorageError or tries == _TRIES:
                raise told
            time.sleep(pause)
            pause *= 2

    def _manager(self, client: S3Client, part_bytes: int) -> TransferManager:
        at_a_time = self._transfers.at_a_time
        config = TransferConfig(
            multipart_threshold=part_bytes,
            multipart_chunksize=part_bytes,
            max_request_concurrency=at_a_time,
            max_submission_concurrency=1,
        )
        return TransferManager(client, config)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _place(self, name: str) -> Place:
        return Place(self._bucket, self._key(name), self._access)


class _Known(BaseSubscriber):
    """Tells a managed transfer what `_stat` found, so that it asks no more, and takes no other object's parts."""

    def __init__(self, size: int, tag: str) -> None:
        self._size = size
        self._tag = tag

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self._size)
        future.meta.provide_object_etag(self._tag or None)
