"""Looking for secrets where none may be: command lines and environments of live processes, and files, again and again.

A search that finds nothing proves nothing unless it would have found something. So each sampler also watches a decoy: a
process below the test with a canary in its command line and its environment, and a file with one. `Sampler.leaks` raises if
any of these three was not found.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CANARY = "canary-5f1c0de"
_PAUSE_SECONDS = 0.05
_FILES_SECONDS = 0.5
_WAITS = "import sys, time; time.sleep(3600)"


def spellings(secret: str) -> list[bytes]:
    """A secret as it is, in UTF-16, in hex, and in base64 wherever it may begin in a group of three bytes."""
    raw = secret.encode()
    encoded = []
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw)
        # The characters at the edges also depend on what stands beside the secret.
        encoded.append(text[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6])
    return [raw, secret.encode("utf-16-le"), raw.hex().encode(), *(e for e in encoded if len(e) >= 8)]


@dataclass(frozen=True, order=True)
class Leak:
    """Where a secret was seen: `cmdline of python -m …`, `environ of …`, a file's path."""

    secret: str
    place: str


@dataclass
class Sampler:
    """Samples from the moment it is entered until it is left.

    Attributes:
        secrets: what may be seen nowhere.
        root_pid: the process whose descendants, and itself, are looked at.
        directory: below which every file is looked at, whenever it changed.
        scratch: where the decoy's file is put.
    """

    secrets: Sequence[str]
    root_pid: int
    directory: Path
    scratch: Path
    samples: int = 0
    seen_commands: set[str] = field(default_factory=set)
    _found: set[Leak] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)
    _known: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spelled = {pattern: secret for secret in (*self.secrets, _CANARY) for pattern in spellings(secret)}
        self._secret_of = spelled
        self._pattern = re.compile(b"|".join(re.escape(pattern) for pattern in spelled))
        self._thread = threading.Thread(target=self._run, name="leaks", daemon=True)

    def __enter__(self) -> Self:
        self.scratch.mkdir(parents=True, exist_ok=True)
        (self.scratch / "decoy.txt").write_bytes(b"\0" * 100_000 + base64.b64encode(f"x{_CANARY}".encode()))
        self._decoy = subprocess.Popen(
            [sys.executable, "-c", _WAITS, _CANARY], env={**os.environ, "DECOY": f"Bearer {_CANARY}"}
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._decoy.kill()
        self._decoy.wait()

    def leaks(self) -> list[Leak]:
        """Where secrets were seen.

        Raises:
            AssertionError: the decoy was overlooked, so that the search is worth nothing.
        """
        assert self.samples > 10, "hardly anything was looked at"
        decoys = {leak.place.partition(" of ")[0] for leak in self._found if leak.secret == _CANARY}
        assert decoys == {"cmdline", "environ", str(self.scratch / "decoy.txt")}, f"the decoys found: {decoys}"
        return sorted(leak for leak in self._found if leak.secret != _CANARY)

    def search(self, data: bytes, place: str) -> None:
        """Look at something else, such as what a bucket holds."""
        for match in self._pattern.finditer(data):
            self._found.add(Leak(self._secret_of[match[0]], place))

    def _run(self) -> None:
        files_at = 0.0
        while not self._ended.is_set():
            self._look_at_processes()
            if time.monotonic() >= files_at:
                self._look_at_files()
                files_at = time.monotonic() + _FILES_SECONDS
            self.samples += 1
            self._ended.wait(_PAUSE_SECONDS)
        self._look_at_files()

    def _look_at_processes(self) -> None:
        for pid in self._watched():
            command = _bytes(Path(f"/proc/{pid}/cmdline"))
            words = command.replace(b"\0", b" ").decode(errors="replace").strip()
            self.seen_commands.add(words)
            self.search(command, f"cmdline of {words}")
            self.search(_bytes(Path(f"/proc/{pid}/environ")), f"environ of {words}")

    def _watched(self) -> Iterator[int]:
        parents: dict[int, int] = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                stat = _bytes(Path(entry.path) / "stat").rpartition(b")")[2].split()
                if len(stat) > 1:
                    parents[int(entry.name)] = int(stat[1])
        for pid in parents:
            above = pid
            while above in parents and above not in {self.root_pid, self._decoy.pid}:
                above = parents[above]
            if above in {self.root_pid, self._decoy.pid}:
                yield pid

    def _look_at_files(self) -> None:
        for top in (self.directory, self.scratch):
            for folder, _, names in os.walk(top):
                for name in names:
                    self._look_at_file(Path(folder) / name)

    def _look_at_file(self, path: Path) -> None:
        try:
            found = path.lstat()
        except OSError:
            return
        version = (found.st_mtime_ns, found.st_size)
        if self._known.get(path) != version:
            self._known[path] = version
            self.search(str(path).encode() + b"\0" + _bytes(path), str(path))


def _bytes(path: Path) -> bytes:
    """A file's content; nothing if it went away, or is no ordinary file."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""
