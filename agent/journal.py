"""The attempt directories as the agent's durable state: what it must still know after a crash.

There is no other database: docs/trainer-contract.md lists the files, and a restarted agent goes on from what they say
(ADR 0004). Every file appears whole or not at all; `durable` writes are on disk before the call returns.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agent.run import Assignment, AttemptKey, InvalidAssignmentError, Process

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TERMINAL_KINDS = frozenset({"failed", "stopped", "published", "finished"})
#: What the agent itself may report before it starts a trainer, whose first line is `started`.
_BEFORE_THE_TRAINER = frozenset({"phase", "fetched"})
_TAIL_BYTES = 256 * 1024
_CHECKPOINTS = "checkpoints"
_CHECKPOINTS_KEPT_SECONDS = 86400.0


class JournalError(Exception):
    """The journal could not be written. `str()` says in words where and why; nothing half-written is left behind."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(f"cannot write {path}: {cause.strerror or cause}")
        self.path = path
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Record:
    """What is durable about one attempt; a part that was not written is empty or None.

    `fetched`: its inputs are here. `reported`: its trainer has written a report. `last_kind`: the last terminal line's
    kind.
    """

    nonce: bytes
    boot_id: str = ""
    assignment: Assignment | None = None
    fetched: bool = False
    process: Process | None = None
    stop_reason: str = ""
    own_stop: bool = False
    staged_digest: str = ""
    publication: Mapping[str, Any] | None = None
    exit_status: int | None = None
    reported: bool = False
    last_kind: str = ""


class Journal(Protocol):
    """The durable state of the attempts on this node. Calls block for a few fsyncs at most.

    Every writing call raises JournalError if it could not be done, and is then undone.
    """

    def keys(self) -> list[AttemptKey]:
        """Every attempt that has a directory, in order."""
        ...

    def directory(self, key: AttemptKey) -> Path:
        """Where the attempt's files are."""
        ...

    def create(self, key: AttemptKey, nonce: bytes, boot_id: str) -> None:
        """Make the directory, holding the claim's nonce and the host's boot id of now. Durable."""
        ...

    def load(self, key: AttemptKey) -> Record:
        """What is known about an attempt."""
        ...

    def write_assignment(self, key: AttemptKey, assignment: Assignment) -> None:
        """Note what to train. Not durable, only atomic: a power cut ends the attempt anyway."""
        ...

    def write_inputs(self, key: AttemptKey, inputs: Mapping[str, Any]) -> None:
        """Note where the model and datasets are that were fetched. Durable."""
        ...

    def write_process(self, key: AttemptKey, process: Process) -> None:
        """Note the trainer that was started. Not durable, only atomic, as above."""
        ...

    def write_stop(self, key: AttemptKey, reason: str, *, own: bool, checkpoint: bool = True) -> None:
        """Note that the attempt is being stopped, why, and whether a last checkpoint is wanted. Durable."""
        ...

    def write_staged(self, key: AttemptKey, digest: str) -> None:
        """Note the staged manifest's digest. Durable."""
        ...

    def write_published(self, key: AttemptKey, publication: Mapping[str, Any]) -> None:
        """Note that the output is at its place. Durable."""
        ...

    def append_report(self, key: AttemptKey, report: Mapping[str, Any]) -> None:
        """Append a line of the agent's own to the reports, on a line of its own even after a torn one. Durable."""
        ...

    def take_up_checkpoints(self, key: AttemptKey) -> None:
        """Give the attempt what an earlier one of its job left here, if there is any. Repeatable."""
        ...

    def remove(self, key: AttemptKey, *, resumable: bool = False) -> None:
        """Forget the attempt and all its files, but `resumable`: not its checkpoints, for a day. Repeatable."""
        ...


class FileJournal:
    """The journal of production: `<data_dir>/attempts/`, and `<data_dir>/checkpoints/` for next attempts."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "attempts"
        self._checkpoints = data_dir / _CHECKPOINTS
        for folder in (self._root, self._checkpoints):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in self._root.iterdir():
            # Half removed, or made without a claim: nothing was ever asked for it.
            if entry.name.startswith(".") or not _read(entry / "claim.json"):
                shutil.rmtree(entry, ignore_errors=True)
        self._forget_old_checkpoints()

    def keys(self) -> list[AttemptKey]:
        """See Journal."""
        found = [key for entry in self._root.iterdir() if (key := AttemptKey.parse(entry.name))]
        return sorted(found)

    def directory(self, key: AttemptKey) -> Path:
        """See Journal."""
        return self._root / str(key)

    def create(self, key: AttemptKey, nonce: bytes, boot_id: str) -> None:
        """See Journal."""
        directory = self.directory(key)
        try:
            directory.mkdir(mode=0o700)
            (directory / "logs").mkdir()
            # In place, with one fsync: it stands in the way of every start, and a torn claim is as good as none.
            with (directory / "claim.json").open("wb") as stream:
                stream.write(json.dumps({"nonce": nonce.hex(), "boot_id": boot_id}).encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            if not isinstance(error, FileExistsError):
                shutil.rmtree(directory, ignore_errors=True)
            raise JournalError(directory, error) from error

    def load(self, key: AttemptKey) -> Record:
        """See Journal."""
        directory = self.directory(key)
        claim = _read(directory / "claim.json") or {}
        process = _read(directory / "process.json")
        stop = _read(directory / "stop.json") or {}
        return Record(
            nonce=bytes.fromhex(claim.get("nonce", "")),
            boot_id=claim.get("boot_id", ""),
            assignment=_assignment(directory / "assignment.json"),
            fetched=_read(directory / "inputs.json") is not None,
            process=None if process is None else Process(**process),
            stop_reason=stop.get("reason", ""),
            own_stop=stop.get("own", False),
            staged_digest=(_read(directory / "staged.json") or {}).get("manifest_digest", ""),
            publication=_read(directory / "published.json"),
            exit_status=_exit_status(directory / "exit"),
            reported=_trainer_reported(directory / "reports.jsonl"),
            last_kind=last_terminal_kind(directory / "reports.jsonl"),
        )

    def write_assignment(self, key: AttemptKey, assignment: Assignment) -> None:
        """See Journal."""
        self._put(self.directory(key) / "assignment.json", assignment.to_json(), durable=False)

    def write_inputs(self, key: AttemptKey, inputs: Mapping[str, Any]) -> None:
        """See Journal."""
        self._put(self.directory(key) / "inputs.json", inputs)

    def write_process(self, key: AttemptKey, process: Process) -> None:
        """See Journal."""
        self._put(self.directory(key) / "process.json", asdict(process), durable=False)

    def write_stop(self, key: AttemptKey, reason: str, *, own: bool, checkpoint: bool = True) -> None:
        """See Journal."""
        self._put(self.directory(key) / "stop.json", {"reason": reason, "own": own, "checkpoint": checkpoint})

    def write_staged(self, key: AttemptKey, digest: str) -> None:
        """See Journal."""
        self._put(self.directory(key) / "staged.json", {"manifest_digest": digest})

    def write_published(self, key: AttemptKey, publication: Mapping[str, Any]) -> None:
        """See Journal."""
        self._put(self.directory(key) / "published.json", publication)

    def append_report(self, key: AttemptKey, report: Mapping[str, Any]) -> None:
        """See Journal."""
        path = self.directory(key) / "reports.jsonl"
        try:
            _append(path, json.dumps(report, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise JournalError(path, error) from error

    def take_up_checkpoints(self, key: AttemptKey) -> None:
        """See Journal."""
        place = self.directory(key) / _CHECKPOINTS
        try:
            (self._checkpoints / key.uid).rename(place)
        except FileNotFoundError:
            return
        except OSError as error:
            raise JournalError(place, error) from error

    def remove(self, key: AttemptKey, *, resumable: bool = False) -> None:
        """See Journal."""
        if resumable:
            self._put_by_checkpoints(key)
        self._forget_old_checkpoints()
        doomed = self._root / f".removed-{key}"
        try:
            self.directory(key).rename(doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise JournalError(self.directory(key), error) from error
        shutil.rmtree(doomed, ignore_errors=True)

    def _put_by_checkpoints(self, key: AttemptKey) -> None:
        ours, place = self.directory(key) / _CHECKPOINTS, self._checkpoints / key.uid
        if ours.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            try:
                ours.rename(place)
                os.utime(place)
            except OSError as error:
                raise JournalError(place, error) from error

    def _forget_old_checkpoints(self) -> None:
        """Those whose job went on elsewhere, or came to its end."""
        forgotten = time.time() - _CHECKPOINTS_KEPT_SECONDS
        for entry in self._checkpoints.iterdir():
            if entry.stat().st_mtime < forgotten:
                shutil.rmtree(entry, ignore_errors=True)

    def _put(self, path: Path, content: Mapping[str, Any] | bytes, *, durable: bool = True) -> None:
        try:
            _write(path, content, durable=durable)
            if durable:
                _sync_directory(path.parent)
        except OSError as error:
            path.with_name(path.name + ".tmp").unlink(missing_ok=True)
            raise JournalError(path, error) from error


def _write(path: Path, content: Mapping[str, Any] | bytes, *, durable: bool) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        if durable:
            os.fsync(stream.fileno())
    aside.rename(path)


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301  # undone below as any other
            os.fsync(descriptor)
        except OSError:
            if os.fstat(descriptor).st_size < size + len(line):
                # Unless the trainer, too, has written meanwhile.
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _assignment(path: Path) -> Assignment | None:
    try:
        return Assignment.parse(path.read_bytes())
    except (FileNotFoundError, InvalidAssignmentError):
        return None


def _exit_status(path: Path) -> int | None:
    try:
        status = int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    # A shell says 128 + n for a child that signal n ended.
    return 128 - status if status > 128 else status


def _trainer_reported(path: Path) -> bool:
    """Whether a report file has a line of the trainer's, a torn one included: the agent's own come before it."""
    try:
        with path.open("rb") as lines:
            return any(_kind(line) not in _BEFORE_THE_TRAINER for line in lines)
    except FileNotFoundError:
        return False


def _kind(line: bytes) -> str:
    try:
        return str(json.loads(line)["kind"])
    except (ValueError, KeyError, TypeError):
        return ""


def last_terminal_kind(path: Path) -> str:
    """The kind of the last terminal line of a report file; empty if it has none."""
    for line in reversed(_tail(path, _TAIL_BYTES).split(b"\n")):
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict) and report.get("kind") in TERMINAL_KINDS:
            return str(report["kind"])
    return ""


def log_tail(path: Path, *, lines: int = 20, limit_bytes: int = 4096) -> str:
    """The last lines of a log, for people; empty if there is none."""
    text = _tail(path, limit_bytes).decode("utf-8", errors="replace").replace("\0", "")
    return "\n".join(text.splitlines()[-lines:]).strip()


def _tail(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - limit_bytes))
            return stream.read()
    except FileNotFoundError:
        return b""
