"""Where bytes come from and go to: one file per kind of place, one Protocol, opened by URI."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from agent.storage.file import FileStorage

if TYPE_CHECKING:
    from agent.storage.access import Access
    from agent.storage.protocol import Storage

_S3 = "s3://"


class UnsupportedURIError(ValueError):
    """No storage here knows this kind of URI."""


def open_storage(uri: str, access: Access) -> Storage:
    """The storage below a prefix: `file:///an/absolute/directory` or `s3://bucket/prefix`. Touches nothing yet.

    The first `s3://` imports boto3, some 28 MB: it is opened in children of the agent only.

    Raises:
        UnsupportedURIError: another scheme, another host, a relative path, or no bucket.
    """
    if uri.startswith(_S3):
        bucket, _, prefix = uri.removeprefix(_S3).partition("/")
        if not bucket:
            raise UnsupportedURIError(f"{access.field}: {uri!r} names no bucket: use s3://bucket/prefix/")
        from agent.storage.s3 import S3Storage

        return S3Storage(bucket, prefix, access)
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not path.startswith("/"):
        raise UnsupportedURIError(
            f"{access.field}: {uri!r} is not supported here: use file:///an/absolute/directory or s3://bucket/prefix/"
        )
    return FileStorage(path)


def open_object(uri: str, access: Access) -> tuple[Storage, str]:
    """The storage that holds one object, and the object's name in it: `s3://bucket/data/rows.jsonl`, `file:///…`.

    Raises:
        UnsupportedURIError: as for open_storage, or the URI names no object.
    """
    folder, _, name = uri.rpartition("/")
    if not name or folder in {"s3:/", "s3:"}:
        raise UnsupportedURIError(f"{access.field}: {uri!r} names no object")
    return open_storage(folder + "/", access), unquote(name) if uri.startswith("file:") else name


def check_writable(storage: Storage, *, below: str = "") -> None:
    """Write and remove a small object, and leave nothing: what would fail after hours fails now.

    Args:
        storage: where.
        below: a prefix in it that is the caller's own; without one, a name that nobody else has.

    Raises:
        OSError: it cannot be written or removed, in the place's own words.
    """
    folder = f"{below or '.attempts'}/check-{secrets.token_hex(8)}"
    try:
        storage.put_bytes(f"{folder}/writable", b"trainplane checks that it may write here\n")
        storage.remove_below(folder)
    except BaseException:
        # Also an order to end; that it cannot be removed either must not hide the cause.
        with contextlib.suppress(OSError):
            storage.remove_below(folder)
        raise
