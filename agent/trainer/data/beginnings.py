"""What a file is that is no dataset, by its first bytes: said in a line, instead of what a parser makes of it."""

from __future__ import annotations

import re

LOOKED_AT_BYTES = 512

_NO_DATA = {
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"BZh": "is compressed with bzip2: unpack it first",
    b"\xfd7zXZ\x00": "is compressed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "is an archive of 7-Zip: unpack it",
    b"PK\x03\x04": "is a zip archive or a spreadsheet: unpack it, or save its table as CSV",
    b"%PDF": "is a PDF: write its text to a file of format text",
    b"SQLite format 3": "is an SQLite database: write its rows to a file of format jsonl",
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself: get that with `git lfs pull`",
    b"ARROW1": "is an Arrow file: save it as Parquet",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")
_PARQUET = b"PAR1"
_PAGES = (b"<!doctype html", b"<html")


def foreign(beginning: bytes, form: str) -> str:
    """Why a file cannot be of a format, in words that go on after its name; empty: it may be.

    Args:
        beginning: its first LOOKED_AT_BYTES.
        form: the format that it is to be read as.
    """
    for mark, words in _NO_DATA.items():
        if beginning.startswith(mark):
            return words
    return "" if form == "parquet" else _other_than(beginning, form)


def _other_than(beginning: bytes, form: str) -> str:
    """Why a file is not text, or not of that kind."""
    if beginning.startswith(_PARQUET):
        return f"is a Parquet file and not of format {form}: say format parquet"
    if beginning.startswith(_UTF16):
        return "is UTF-16: save it as UTF-8"
    if beginning.lstrip().lower().startswith(_PAGES) and form != "text":
        return "is a web page, perhaps of a login: name the address of the file itself"
    if form == "jsonl" and _ARRAY.match(beginning):
        return "is an array of JSON and not an object on each line: say format json"
    return ""
