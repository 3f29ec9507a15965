"""Reads datasets and says exactly which row and field is wrong.

A broken row ends the job, for the rows that are left would not be what the user meant to train on. All rows are looked
at first, so that the message tells how many are to be mended and where the first of them stand. What is kept of a row
until it is read again, to be tokenized, is its entry in an index (`row_index.py`): memory does not grow with the data.
`formats` says how rows are written and numbered.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from agent.trainer.data.beginnings import LOOKED_AT_BYTES, foreign
from agent.trainer.data.broken import BrokenRows, RowsBroken
from agent.trainer.data.formats import format_of, records
from agent.trainer.data.row_index import RowIndex
from agent.trainer.data.rows import (
    BUILDERS,
    FIELD_NAMES,
    OPTIONAL_FIELDS,
    Row,
    RowFields,
    fingerprint,
    held_out_key,
    kind_of,
    mapped_kind,
)
from agent.trainer.data.tools import COLUMN
from agent.trainer.failures import (
    ConfigInvalid,
    DatasetEmpty,
    DatasetInvalid,
    StorageDenied,
)
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

    from agent.trainer.assignment import DatasetSource
    from agent.trainer.data.formats import Record
    from agent.trainer.data.rows import Content

BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset of which every row was looked at."""

    source: DatasetSource
    format: str
    kind: str
    rows: Rows
    sha256: str
    """Of the file's bytes, in hex; of several files: of their digests in hex, one after the other."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a dataset, as it was when its rows were looked at."""

    path: Path
    shown: str
    form: str
    stamp: tuple[int, ...]
    first: int
    """The place of its first row in the dataset."""


class Rows:
    """The rows of a dataset, read anew from its files each time that they are gone through.

    Args:
        source: the dataset's.
        kind: of all of them.
        files: that they are in.
        index: has an entry for each.
        first: the place of the first one's.
    """

    def __init__(self, source: DatasetSource, kind: str, files: Sequence[_File], index: RowIndex, first: int) -> None:
        self._source = source
        self._kind = kind
        self._files = files
        self.index = index
        self.first = first
        self._count = len(index) - first

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        """Every row, in order.

        Raises:
            DatasetInvalid: a file is not what it was.
        """
        count = 0
        for file in self._files:
            with _opened(self._source, file.path) as stream:
                _require_unchanged(self._source, file, stream)
                for record in _records(self._source, file.form, stream, file.shown):
                    where = _where(self._source, record.number, file.shown)
                    if record.wrong:
                        raise _changed(self._source, file)
                    yield Row(where, BUILDERS[self._kind](RowFields(where, record, self._source)))
                    count += 1
                _require_unchanged(self._source, file, stream)
        if count != self._count:
            raise _changed(self._source, self._files[-1])

    def entries(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """What is kept of every row, in blocks, each with the place in the dataset of its first."""
        return ((start - self.first, block) for start, block in self.index.blocks(self.first, self._count))

    def where(self, place: int) -> str:
        """Where a row stands, for messages."""
        file = next(file for file in reversed(self._files) if file.first <= place)
        return _where(self._source, int(self.index.entry(self.first + place)["number"]), file.shown)


def read_dataset(
    source: DatasetSource, index: RowIndex | None = None, *, seed: int | None = None, whole: bool = True
) -> Dataset:
    """Look at every row and keep none: they are read again when they are wanted.

    Args:
        source: where they are.
        index: gets an entry for each of them; None: one of its own.
        seed: of the choice of rows that are held out; None: there is no such choice.
        whole: there are no more rows than these.

    Raises:
        DatasetInvalid, DatasetEmpty, StorageDenied: with file, row and field.
        ConfigInvalid: the source's URI or `columns` is no good.
        DiskFull: there is no room for the index.
    """
    path = local_path(source)
    kind = mapped_kind(source)
    called = source.source if source.fetched else str(path)
    index = RowIndex() if index is None else index
    reading = _Reading(source, called, index, seed)
    reading.kind = kind
    digests, size_bytes, files = [], 0, []
    for place in _files(source, path):
        shown = called if place == path else f"{place.name} of {called}"
        with _opened(source, place) as stream:
            file = _File(place, shown, source.format or format_of(place.name), _stamp(stream), reading.count)
            files.append(file)
            if words := foreign(stream.read(LOOKED_AT_BYTES), file.form):
                raise DatasetInvalid(f"{source.path}.source: {shown} {words}")
            stream.seek(0)
            digest, size = _digest(stream)
            digests.append(digest)
            size_bytes += size
            for record in _records(source, file.form, stream, shown):
                reading.take(record, shown)
    reading.finish()
    if whole:
        reading.require_all_columns()
    digest = digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()
    form = files[-1].form if files else ""
    return Dataset(
        source, form, reading.kind, Rows(source, reading.kind, files, index, reading.first), digest, size_bytes
    )


def _files(source: DatasetSource, path: Path) -> list[Path]:
    """The files of a dataset: what was fetched may be a directory of them."""
    if source.fetched and path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    return [path]


def _opened(source: DatasetSource, path: Path) -> BinaryIO:
    try:
        stream = path.open("rb", buffering=BUFFER_BYTES)
    except FileNotFoundError as error:
        raise DatasetInvalid(f"{source.path}.source: there is no file {path} on this node") from error
    except IsADirectoryError as error:
        raise DatasetInvalid(f"{source.path}.source: {path} is a directory; name a file in it") from error
    except PermissionError as error:
        raise StorageDenied(f"{source.path}.source: {path} may not be read by the trainer's user") from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise DatasetInvalid(f"{source.path}.source: {path} is no regular file, which can be read more than once")
    return stream


def _digest(stream: BinaryIO) -> tuple[str, int]:
    """The SHA-256 of a file and its size; the stream is at its beginning, before and after."""
    digest, size = sha256(), 0
    while content := stream.read(BUFFER_BYTES):
        digest.update(content)
        size += len(content)
        PULSE.beat()
    stream.seek(0)
    return digest.hexdigest(), size


def _records(source: DatasetSource, form: str, stream: BinaryIO, shown: str) -> Iterator[Record]:
    for record in records(form, stream, wanted=_columns(source), shown=f"{source.path}.source: {shown}"):
        yield record
        PULSE.beat()


def _where(source: DatasetSource, number: int, shown: str) -> str:
    return f"{source.path}.source: row {number} of {shown}"


def _stamp(stream: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(stream.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _require_unchanged(source: DatasetSource, file: _File, stream: BinaryIO) -> None:
    if _stamp(stream) != file.stamp:
        raise _changed(source, file)


def _changed(source: DatasetSource, file: _File) -> DatasetInvalid:
    return DatasetInvalid(
        f"{source.path}.source: {file.shown} was changed while it was read; leave it alone until training has begun, "
        "or train on a copy"
    )


class _Reading:
    """The rows of a dataset as its records come, and what is wrong with those that are none."""

    def __init__(self, source: DatasetSource, called: str, index: RowIndex, seed: int | None) -> None:
        self.kind = ""
        self.first = len(index)
        self._source = source
        self._called = called
        self._index = index
        self._seed = seed
        self._broken = BrokenRows()
        self._unseen = {name: source.columns[name] for name in OPTIONAL_FIELDS if name in source.columns}
        """Mapped fields that rows may lack, as long as none had them."""
        self._first_names = ""

    @property
    def count(self) -> int:
        """Rows until now."""
        return len(self._index) - self.first

    def take(self, record: Record, shown: str) -> None:
        """Take in a record of the file that messages call so."""
        where = _where(self._source, record.number, shown)
        try:
            content = fingerprint(self._content(where, record))
        except DatasetInvalid as error:
            self._broken.add(where, error)
            if not (self.kind or record.wrong):
                # Without a kind every row that follows would be wrong in the same way.
                raise RowsBroken(str(error), self._broken) from error
        else:
            key = 0 if self._seed is None else held_out_key(content, self._seed)
            self._index.append(content, key, record.number)

    def _content(self, where: str, record: Record) -> Content:
        if record.wrong:
            raise DatasetInvalid(f"{where} {record.wrong}")
        if self._unseen:
            self._first_names = self._first_names or record.names
            self._unseen = {name: column for name, column in self._unseen.items() if column not in record.fields}
        self.kind = self.kind or kind_of(self._source, where, record)
        return BUILDERS[self.kind](RowFields(where, record, self._source))

    def finish(self) -> None:
        """There are no more.

        Raises:
            RowsBroken: some are.
            DatasetEmpty: there is none.
        """
        if self._broken.count:
            raise self._broken.failure()
        if not self.count:
            raise DatasetEmpty(f"{self._source.path}.source: {self._called} has no rows")

    def require_all_columns(self) -> None:
        """There are no more, and not one has what `columns` maps.

        Raises:
            DatasetInvalid: so it is.
        """
        for name, column in self._unseen.items():
            raise DatasetInvalid(
                f"{self._source.path}.columns.{name}: no row of {self._called} has a field {column}; "
                f"the first has {self._first_names}"
            )


def local_path(source: DatasetSource) -> Path:
    """The path of the rows on this machine: what was fetched, or what a `file://` URI names."""
    if source.fetched:
        return Path(source.fetched)
    parts = urlsplit(source.source)
    if parts.scheme in {"s3", "https", "hf"}:
        raise ConfigInvalid(f"{source.path}.source: {source.source} was not fetched to this node (no inputs.json)")
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ConfigInvalid(f"{source.path}.source: must be file:// and an absolute path, got {source.source}")
    path = unquote(parts.path)
    if "\0" in path:
        raise ConfigInvalid(f"{source.path}.source: must not contain NUL")
    return Path(path)


def _columns(source: DatasetSource) -> frozenset[str]:
    """The names that the file has for the fields that training knows."""
    return frozenset(source.columns.get(name, name) for name in FIELD_NAMES) | {COLUMN}
