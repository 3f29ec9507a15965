"""What is taken from a node's payload: bounded, and storable in any database.

A node proves who it is by its subject, not that it means well. Text that is too long is cut, because one huge message
must not make an event that nobody can publish; NUL is replaced, because PostgreSQL refuses it and would go on refusing.
"""

from __future__ import annotations

#: Above what any request of ours reaches (reports and log chunks: 256 KiB of content).
MAX_REQUEST_BYTES = 320 * 1024
MAX_REPORTS = 500
MAX_LOG_BYTES = 256 * 1024
MAX_MESSAGE_CHARACTERS = 8_192
MAX_WORD_CHARACTERS = 128
MAX_PATH_CHARACTERS = 2_048
#: The last second of the year 9999: beyond, a time cannot be written down.
MAX_SECONDS = 253_402_300_799
#: Fits SQL's BIGINT with room to count on.
MAX_COUNT = 2**53


class Malformed(Exception):  # noqa: N818 - it says what it is
    """A request that no agent of ours sends. Its sender is told NOT_NOW, and nothing is concluded from it."""


def message(text: str) -> str:
    """A sentence for people."""
    if len(text) > MAX_MESSAGE_CHARACTERS:
        text = text[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    return text.replace("\0", "\ufffd") if "\0" in text else text


def word(text: str) -> str:
    """A name, a reason, a phase, a digest."""
    if len(text) > MAX_WORD_CHARACTERS:
        text = text[:MAX_WORD_CHARACTERS]
    return text.replace("\0", "\ufffd") if "\0" in text else text


def path(text: str) -> str:
    """A path or URI."""
    return text[:MAX_PATH_CHARACTERS].replace("\0", "\ufffd")


def count(number: int) -> int:
    """A number of things, a size, a position: never negative."""
    return min(max(number, 0), MAX_COUNT)
