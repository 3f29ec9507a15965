"""Journals for tests: one in memory, and one whose disk is full when it is told to be. Both keep the contract's suite."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.journal import TERMINAL_KINDS, Journal, JournalError, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from agent.run import Assignment, AttemptKey, Process


class MemoryJournal:
    """Forgets all when it is dropped. `directory` names places that it never touches."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._records: dict[AttemptKey, Record] = {}
        self.reports: dict[AttemptKey, list[Mapping[str, Any]]] = {}

    def keys(self) -> list[AttemptKey]:
        return sorted(self._records)

    def directory(self, key: AttemptKey) -> Path:
        return self._root / str(key)

    def create(self, key: AttemptKey, nonce: bytes, boot_id: str) -> None:
        if key in self._records:
            raise JournalError(self.directory(key), FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))
        self._records[key] = Record(nonce=nonce, boot_id=boot_id)

    def load(self, key: AttemptKey) -> Record:
        reports = self.reports.get(key, [])
        terminal = [str(report["kind"]) for report in reports if report.get("kind") in TERMINAL_KINDS]
        record = self._records.get(key, Record(nonce=b""))
        by_trainer = any(report["kind"] not in {"phase", "fetched"} for report in reports)
        return replace(record, reported=by_trainer, last_kind=terminal[-1] if terminal else "")

    def write_assignment(self, key: AttemptKey, assignment: Assignment) -> None:
        self._change(key, assignment=assignment)

    def write_inputs(self, key: AttemptKey, inputs: Mapping[str, Any]) -> None:
        self._change(key, fetched=bool(inputs))

    def write_process(self, key: AttemptKey, process: Process) -> None:
        self._change(key, process=process)

    def write_stop(self, key: AttemptKey, reason: str, *, own: bool, checkpoint: bool = True) -> None:
        self._change(key, stop_reason=reason, own_stop=own)

    def write_staged(self, key: AttemptKey, digest: str) -> None:
        self._change(key, staged_digest=digest)

    def write_published(self, key: AttemptKey, publication: Mapping[str, Any]) -> None:
        self._change(key, publication=dict(publication))

    def append_report(self, key: AttemptKey, report: Mapping[str, Any]) -> None:
        self.reports.setdefault(key, []).append(report)

    def take_up_checkpoints(self, key: AttemptKey) -> None:
        """Nothing is left here by earlier attempts."""

    def remove(self, key: AttemptKey, *, resumable: bool = False) -> None:
        self._records.pop(key, None)
        self.reports.pop(key, None)

    def _change(self, key: AttemptKey, **changes: Any) -> None:
        self._records[key] = replace(self._records[key], **changes)


class FailingJournal:
    """Another journal, the writing calls of which fail while their names are in `failing`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.failing: set[str] = set()
        self.failed: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(self._journal, name)
        if name not in self.failing:
            return call

        def fail(key: AttemptKey, *_: Any, **__: Any) -> None:
            self.failed.append(name)
            raise JournalError(self._journal.directory(key), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

        return fail
