"""What every storage promises. Names are relative, with `/`; a storage is rooted at one prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Storage(Protocol):
    """Objects below one prefix. Everything may block, and raises OSError with the place's own words.

    A written object is there whole or not at all, durable before the call returns, and replaces one of its name.
    """

    def put(self, name: str, source: Path) -> None:
        """Store a local file's content."""
        ...

    def put_bytes(self, name: str, data: bytes) -> None:
        """Store a small content."""
        ...

    def copy(self, name: str, target: str) -> None:
        """Store an object's content under another name.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """An object's content in pieces.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...

    def remove_below(self, prefix: str) -> None:
        """Remove every object below a prefix. Repeatable."""
        ...
