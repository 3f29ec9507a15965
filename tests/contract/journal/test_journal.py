"""What every journal promises; and what the one on disk promises beside it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from agent.journal import FileJournal, Journal, JournalError, Record, log_tail
from agent.run import Assignment, AttemptKey, Process
from tests.support.journals import FailingJournal, MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = AttemptKey("01J", 1)
NONCE = bytes(range(16))
ASSIGNMENT = Assignment(KEY, "demo", "default", {"base_model": {"model_name": "hä"}}, ("0", "3"), 60.0)

JOURNALS: dict[str, Callable[[Path], Journal]] = {
    "file": FileJournal,
    "memory": MemoryJournal,
    "failing": lambda root: FailingJournal(FileJournal(root)),  # type: ignore[dict-item,return-value]
}


@pytest.fixture(params=JOURNALS)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return JOURNALS[request.param](tmp_path)


def test_what_was_written_is_loaded(journal: Journal) -> None:
    journal.create(KEY, NONCE, "boot")
    assert journal.load(KEY) == Record(NONCE, "boot")
    journal.write_assignment(KEY, ASSIGNMENT)
    journal.write_process(KEY, Process(7, 8, "boot"))
    journal.write_stop(KEY, "CANCELLED", own=False)
    journal.write_staged(KEY, "digest")
    journal.write_published(KEY, {"output_uri": "file:///o"})
    assert journal.load(KEY) == Record(
        NONCE,
        "boot",
        assignment=ASSIGNMENT,
        process=Process(7, 8, "boot"),
        stop_reason="CANCELLED",
        staged_digest="digest",
        publication={"output_uri": "file:///o"},
    )


def test_the_last_terminal_report_is_known(journal: Journal) -> None:
    journal.create(KEY, NONCE, "boot")
    assert not journal.load(KEY).reported
    for kind, last in (("started", ""), ("finished", "finished"), ("warning", "finished"), ("published", "published")):
        journal.append_report(KEY, {"kind": kind})
        assert journal.load(KEY).last_kind == last
    assert journal.load(KEY).reported


def test_what_the_agent_reports_before_the_trainer_runs_is_no_report_of_the_trainers(journal: Journal) -> None:
    journal.create(KEY, NONCE, "boot")
    for kind in ("phase", "fetched", "phase"):
        journal.append_report(KEY, {"kind": kind})
        assert not journal.load(KEY).reported
    journal.append_report(KEY, {"kind": "started"})
    assert journal.load(KEY).reported


def test_fetched_inputs_are_remembered(journal: Journal) -> None:
    journal.create(KEY, NONCE, "boot")
    assert not journal.load(KEY).fetched
    journal.write_inputs(KEY, {"model": {"path": "/model", "name": "owner/name", "commit": "c0"}, "datasets": []})
    assert journal.load(KEY).fetched


def test_attempts_are_listed_in_order_and_forgotten_when_removed(journal: Journal) -> None:
    keys = [AttemptKey("B", 1), AttemptKey("A", 10), AttemptKey("A", 2)]
    for key in keys:
        journal.create(key, NONCE, "boot")
    assert journal.keys() == sorted(keys)
    journal.remove(AttemptKey("A", 2))
    journal.remove(AttemptKey("A", 2))
    assert journal.keys() == [AttemptKey("A", 10), AttemptKey("B", 1)]


def test_an_attempt_is_created_once_and_keeps_its_nonce(journal: Journal) -> None:
    journal.create(KEY, NONCE, "boot")
    with pytest.raises(JournalError, match="File exists"):
        journal.create(KEY, b"another", "boot")
    assert journal.load(KEY).nonce == NONCE


def test_a_journal_opened_again_knows_what_the_last_one_wrote(tmp_path: Path) -> None:
    before = FileJournal(tmp_path)
    before.create(KEY, NONCE, "boot")
    before.write_assignment(KEY, ASSIGNMENT)
    after = FileJournal(tmp_path)
    assert after.keys() == [KEY]
    assert after.load(KEY).assignment == ASSIGNMENT


def test_half_made_and_half_removed_directories_are_cleared_away(tmp_path: Path) -> None:
    FileJournal(tmp_path)
    attempts = tmp_path / "attempts"
    for name, claim in (("X.1", None), ("Y.1", ""), ("Z.1", '{"nonce"'), (".removed-W.1", '{"nonce":"00"}')):
        (attempts / name).mkdir()
        if claim is not None:
            (attempts / name / "claim.json").write_text(claim)
    assert FileJournal(tmp_path).keys() == []
    assert list(attempts.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "status"), [("0\n", 0), ("7\n", 7), ("137\n", -9), ("143\n", -15), ("", None), ("x", None)]
)
def test_the_shells_exit_status_is_read_as_a_signal_where_it_was_one(
    tmp_path: Path, written: str, status: int | None
) -> None:
    journal = FileJournal(tmp_path)
    journal.create(KEY, NONCE, "boot")
    (journal.directory(KEY) / "exit").write_text(written)
    assert journal.load(KEY).exit_status == status


def test_an_appended_report_gets_a_line_of_its_own_after_a_torn_one(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    journal.create(KEY, NONCE, "boot")
    path = journal.directory(KEY) / "reports.jsonl"
    path.write_bytes(b'{"kind":"started"}\n{"kind":"prog')
    journal.append_report(KEY, {"kind": "failed", "message": "line\nbreak"})
    lines = path.read_bytes().split(b"\n")
    assert lines[1] == b'{"kind":"prog'
    assert json.loads(lines[2]) == {"kind": "failed", "message": "line\nbreak"}
    assert lines[3:] == [b""]
    assert journal.load(KEY).last_kind == "failed"


def test_a_disk_that_takes_nothing_is_told_in_words_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    journal.create(KEY, NONCE, "boot")
    directory = journal.directory(KEY)
    (directory / "staged.json.tmp").symlink_to("/dev/full")
    with pytest.raises(JournalError, match=r"cannot write .*staged\.json: No space left on device"):
        journal.write_staged(KEY, "digest")
    assert sorted(path.name for path in directory.iterdir()) == ["claim.json", "logs"]
    assert journal.load(KEY).staged_digest == ""


def test_the_attempts_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    journal.create(KEY, NONCE, "boot")
    assert os.stat(journal.directory(KEY)).st_mode & 0o777 == 0o700  # noqa: PTH116


def test_the_end_of_a_log_is_shown_whatever_bytes_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert log_tail(path) == ""
    path.write_bytes(b"first\n" * 100 + b"\xff\0bad\nlast\n")
    assert log_tail(path, lines=2) == "\N{REPLACEMENT CHARACTER}bad\nlast"


def test_a_failed_attempts_checkpoints_are_the_next_ones(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    first, second = AttemptKey("01J", 1), AttemptKey("01J", 2)
    journal.create(first, b"n", "boot")
    checkpoint = journal.directory(first) / "checkpoints" / "00000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    journal.remove(first, resumable=True)
    journal.create(second, b"m", "boot")
    for _ in range(2):
        journal.take_up_checkpoints(second)
        assert (journal.directory(second) / "checkpoints" / "00000003" / "manifest.json").read_text() == "{}"
    journal.remove(second)
    third = AttemptKey("01J", 3)
    journal.create(third, b"o", "boot")
    journal.take_up_checkpoints(third)
    assert not (journal.directory(third) / "checkpoints").exists()


def test_checkpoints_that_nobody_came_for_are_forgotten_after_a_day(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    old, new = AttemptKey("01OLD", 1), AttemptKey("01NEW", 1)
    for key in (old, new):
        journal.create(key, b"n", "boot")
        (journal.directory(key) / "checkpoints").mkdir()
    journal.remove(old, resumable=True)
    kept = tmp_path / "checkpoints"
    os.utime(kept / "01OLD", (0, 0))
    # Whatever attempt ends on the node next, or with the next agent.
    journal.remove(AttemptKey("01DONE", 1))
    assert not any(kept.iterdir())
    journal.remove(new, resumable=True)
    assert [entry.name for entry in kept.iterdir()] == ["01NEW"]
    os.utime(kept / "01NEW", (0, 0))
    FileJournal(tmp_path)
    assert not any(kept.iterdir())
