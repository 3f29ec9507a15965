"""Where artifacts and logs go: one file per kind of place, one Protocol, opened by URI."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from agent.storage.file import FileStorage

if TYPE_CHECKING:
    from agent.storage.protocol import Storage


class UnsupportedURIError(ValueError):
    """No storage here knows this kind of URI."""


def open_storage(uri: str) -> Storage:
    """The storage below a prefix, `file:///an/absolute/directory`. Touches nothing yet.

    Raises:
        UnsupportedURIError: another scheme, another host, or a relative path.
    """
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not path.startswith("/"):
        raise UnsupportedURIError(f"{uri!r} is not supported here: use file:///an/absolute/directory")
    return FileStorage(path)
