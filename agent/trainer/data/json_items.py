"""The items of one JSON array, one after the other: a file of any size takes the memory of its largest item.

The array is the whole of the text, or what an object has under `data`. What is wrong is said in the words of Python's
own parser, with its line, column and character in the whole text.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import TextIO

CHUNK_CHARACTERS = 1 << 20
NEAR_END = 16
"""Characters: an error that near to the end of what was read may be only that the rest was not."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class NotJsonError(ValueError):
    """The text is no JSON. `kind` is the error without its place."""

    def __init__(self, kind: str, place: str) -> None:
        super().__init__(f"{kind}: {place}")
        self.kind = kind


class NoArrayError(ValueError):
    """It is JSON, and has no array where there should be one."""


def items(stream: TextIO, chunk: int = CHUNK_CHARACTERS) -> Iterator[Any]:
    """The items, in order.

    Args:
        stream: the text.
        chunk: characters that are read at once; more where an item has more.

    Raises:
        NotJsonError, NoArrayError: perhaps after some items.
        RecursionError: an item is nested too deep.
    """
    text = _Text(stream, chunk)
    opening = text.peek()
    if opening == "[":
        yield from text.array()
        found = True
    elif opening == "{":
        found = yield from _under_data(text)
    else:
        text.value()
        found = False
    if text.peek():
        text.fail("Extra data")
    if not found:
        raise NoArrayError


def _under_data(text: _Text) -> Generator[Any, None, bool]:
    """The items of `data` of an object; whether it has such an array."""
    found = False
    text.take("{")
    if text.peek() == "}":
        text.take("}")
        return found
    while True:
        if text.peek() != '"':
            text.fail("Expecting property name enclosed in double quotes")
        key = text.value()
        if text.peek() != ":":
            text.fail("Expecting ':' delimiter")
        text.take(":")
        if key == "data" and text.peek() == "[":
            if found:
                raise NoArrayError
            found = True
            yield from text.array()
        else:
            text.value()
        if text.after_item("}"):
            return found


class _Text:
    """The part of a text that was read and is not done with, and where it stands in the whole."""

    def __init__(self, stream: TextIO, chunk: int) -> None:
        self._stream = stream
        self._chunk = chunk
        self._text = ""
        self._at = 0
        self._ended = False
        self._before = 0
        """Characters, lines and characters of the last line that were done with."""
        self._lines = 0
        self._column = 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def take(self, character: str) -> None:
        """Go past it, which `peek` has seen."""
        self._at += len(character)

    def value(self) -> Any:
        """The next value."""
        if not self.peek():
            self.fail("Expecting value")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - NEAR_END
                if not (cut_off and self._read_on()):
                    self.fail(error.msg, error.pos)
                continue
            # A number may go on in what was not read yet.
            if end < len(self._text) - NEAR_END or not self._read_on():
                self._at = end
                return value

    def array(self) -> Iterator[Any]:
        """The items of the array that comes next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.after_item("]"):
                return

    def after_item(self, closing: str) -> bool:
        """Go past what stands after an item; whether it was the last."""
        found = self.peek()
        if found not in {",", closing} or not found:
            self.fail("Expecting ',' delimiter")
        self.take(found)
        return found == closing

    def fail(self, kind: str, at: int | None = None) -> NoReturn:
        """Say what is wrong, and where in the whole text.

        Raises:
            NotJsonError: it.
        """
        at = self._at if at is None else at
        lines = self._text.count("\n", 0, at)
        column = at - self._text.rfind("\n", 0, at) if lines else self._column + at + 1
        raise NotJsonError(kind, f"line {self._lines + lines + 1} column {column} (char {self._before + at})")

    def _read_on(self) -> bool:
        """Read as much again as there is; False: there is no more."""
        if self._ended:
            return False
        done, rest = self._text[: self._at], self._text[self._at :]
        more = self._stream.read(max(self._chunk, len(rest)))
        self._ended = not more
        if not more:
            return False
        self._before += len(done)
        self._lines += done.count("\n")
        self._column = len(done) - done.rfind("\n") - 1 if "\n" in done else self._column + len(done)
        self._text, self._at = rest + more, 0
        return True
