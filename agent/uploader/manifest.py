"""`manifest.json`: what an attempt's output consists of. Its SHA-256 is what the commit is granted for."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.checkpoint import STORED
from agent.uploader.failures import CONFIG_INVALID, UploadError

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "manifest.json"
STAGING = ".attempts"
CHECKPOINTS = STORED
"""What lies there is never part of an output."""


@dataclass(frozen=True, slots=True, order=True)
class File:
    """One file of the output; `path` relative to it, with `/`."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Whose output it is, and its files in the order of their paths. The manifest itself is not among them."""

    uid: str
    job_id: str
    attempt: int
    files: tuple[File, ...]

    def to_json(self) -> bytes:
        """The file's bytes: the same for the same content, always."""
        document = {
            "uid": self.uid,
            "job_id": self.job_id,
            "attempt": self.attempt,
            "files": [
                {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in sorted(self.files)
            ],
        }
        return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the file, lower-case hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ValueError: it is none.
        """
        try:
            document = json.loads(data)
            files = tuple(
                File(_relative(file["path"]), int(file["size_bytes"]), str(file["sha256"]))
                for file in document["files"]
            )
            return cls(str(document["uid"]), str(document["job_id"]), int(document["attempt"]), files)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no manifest: {error}") from error

    def artifacts(self) -> list[dict[str, Any]]:
        """The files, as the report `published` lists them."""
        return [
            {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in sorted(self.files)
        ]


def checksum(pieces: Iterable[bytes]) -> tuple[int, str]:
    """Size and SHA-256 of a content."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def output_files(output: Path) -> list[str]:
    """Names of all files of an output directory, in order. Our own manifest's name is left out: it is written anew.

    Raises:
        UploadError: there is none, or one that cannot be published: a link, a device, a name that is no text.
    """
    names: list[str] = []
    for folder, subfolders, files in os.walk(output):
        for name in (*subfolders, *files):
            path = Path(folder) / name
            relative = path.relative_to(output).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise UploadError(CONFIG_INVALID, f"output/{relative} is neither a file nor a directory")
            if not relative.isprintable() or relative.split("/")[0] in {STAGING, CHECKPOINTS}:
                raise UploadError(CONFIG_INVALID, f"output/{relative!a} has a name that cannot be published")
            if path.is_file() and relative != NAME:
                names.append(relative)
    if not names:
        raise UploadError(CONFIG_INVALID, "the trainer finished and left nothing in output/")
    return sorted(names)


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} leads out of the output")
    return path
