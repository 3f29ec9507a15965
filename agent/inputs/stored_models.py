"""A model's directory from an object store, kept on this node like the hub's (ADR 0039).

    <project>/s3--<last name>--<of its address>/<of its files>/     `.<of its files>/files.json` says which those are

Nothing there has a commit: what identifies the bytes is each file's name, size and ETag. They are asked for each job,
so who may not read them gets nothing of what is here, and a file that was replaced makes another model, which takes the
files that stayed the same from the one before.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.inputs import choice
from agent.inputs.cache import Entry, ModelCache, listed
from agent.inputs.datasets import blamed, bring
from agent.inputs.failures import MODEL_NOT_FOUND, STORAGE_UNAVAILABLE, InputError
from agent.storage import UnsupportedURIError, open_storage

if TYPE_CHECKING:
    from agent.inputs.models import Place
    from agent.inputs.settings import InputSettings
    from agent.storage.access import Access
    from agent.storage.protocol import Storage

_FILES = "files.json"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
_NAME_LENGTH = 64
_DIGEST_LENGTH = 40


@dataclass(frozen=True, slots=True)
class StoredModel:
    """What is there now.

    Attributes:
        prefix: its address, without a `/` at the end.
        access: by whose leave.
        storage: below the prefix.
        files: of each file that makes the model its size and version.
    """

    prefix: str
    access: Access
    storage: Storage
    files: dict[str, tuple[int, str]]

    @property
    def size_bytes(self) -> int:
        """Of all of it."""
        return sum(size for size, _ in self.files.values())

    def entry(self, settings: InputSettings, project: str) -> Entry:
        """Where it is, or would be, kept."""
        # The same address at another store is another place.
        place = sha256(f"{self.access.settings.s3_endpoint or ''} {self.prefix}".encode()).hexdigest()
        name = _NOT_IN_A_NAME.sub("-", self.prefix.rpartition("/")[2])[:_NAME_LENGTH]
        content = sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()
        return Entry(Path(settings.cache_dir), project, f"s3--{name}--{place[:16]}", content[:_DIGEST_LENGTH])


def look(uri: str, access: Access) -> StoredModel:
    """Ask what is there, of the files that make a model.

    Raises:
        InputError: nothing, no model that may be loaded, or not for these credentials.
    """
    prefix = uri.rstrip("/")
    try:
        storage = open_storage(f"{prefix}/", access)
        names = [name for name in storage.names() if "/" not in name]
        if not names:
            raise InputError(MODEL_NOT_FOUND, f"{access.field}: there is nothing below {prefix}/")
        chosen = choice.model_files(f"{prefix}/", names, field=access.field)
        files = {name: (storage.size(name), storage.version(name)) for name in chosen}
    except (OSError, UnsupportedURIError) as error:
        raise blamed(error, access, missing=MODEL_NOT_FOUND) from error
    return StoredModel(prefix, access, storage, files)


def fetch(there: StoredModel, settings: InputSettings, place: Place) -> Path:
    """Its directory in this node's cache.

    Raises:
        InputError: it could not be brought here; or a file was replaced meanwhile, which passes.
    """
    entry = there.entry(settings, place.project)

    def fill(directory: Path) -> None:
        place.expects(directory, there.size_bytes)
        for rest in directory.iterdir():
            if rest.name not in there.files:
                rest.unlink()  # of a try that was killed
        for name in there.files:
            # Under its own name there is only what came whole, of an earlier try for the same files.
            if not (directory / name).exists() and not _taken_over(entry, name, there.files[name], directory):
                _bring(there, name, directory / name)
        (entry.notes / _FILES).write_text(json.dumps(there.files), encoding="utf-8")

    cache = ModelCache(Path(settings.cache_dir), limit_bytes=settings.cache_bytes)
    return cache.obtain(entry, there.size_bytes, user=place.attempt, fill=fill, waiting=place.waiting)


def _bring(there: StoredModel, name: str, target: Path) -> None:
    aside = target.with_name(f".{name}.new")
    bring(
        f"{there.prefix}/{name}", there.access, aside, missing=MODEL_NOT_FOUND, expects=lambda _directory, _size: None
    )
    try:
        now = (there.storage.size(name), there.storage.version(name))
    except OSError as error:
        raise blamed(error, there.access, missing=MODEL_NOT_FOUND) from error
    if now != there.files[name]:
        aside.unlink()
        raise InputError(
            STORAGE_UNAVAILABLE, f"{there.access.field}: {there.prefix}/{name} was replaced while it was fetched"
        )
    aside.rename(target)


def _taken_over(entry: Entry, name: str, wanted: tuple[int, str], directory: Path) -> bool:
    """Whether the file is the same in another whole model of that address, and now here too, without a byte copied."""
    for notes in listed(entry.notes.parent):
        other = Entry(entry.root, entry.project, entry.model, notes.name[1:])
        if not notes.name.startswith(".") or other == entry or not other.complete.exists():
            continue
        try:
            if tuple(_noted(notes / _FILES)[name]) != wanted:
                continue
            os.link(other.directory / name, directory / name)
        except (OSError, ValueError, LookupError, TypeError):
            continue  # it is just being removed, or its note says nothing
        return True
    return False


def _noted(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes()))
