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

    def download(self, name: str, target: Path) -> None:
        """Bring an object's content into a local file: whole and durable, or no such file.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...

    def size(self, name: str) -> int:
        """An object's size in bytes.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...

    def version(self, name: str) -> str:
        """What is the same as long as an object's content is: to tell whether it was replaced, not what is in it.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        ...

    def names(self) -> Iterator[str]:
        """Every object below the storage's own prefix, in the order of their names."""
        ...

    def remove_below(self, prefix: str) -> None:
        """Remove every object below a prefix. Repeatable."""
        ...
