"""Reading report files: complete lines only, each once, from wherever the control plane says."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ports import Lines, NoAnswerError, Watermark
from agent.reports import BATCH_BYTES, BATCH_REPORTS, ReportFile, ReportSender
from agent.run import AttemptKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pytest

KEY = AttemptKey("01J", 1)


def numbered(first: int, last: int) -> bytes:
    return b"".join(f'{{"n":{number}}}\n'.encode() for number in range(first, last + 1))


def pending(file: ReportFile) -> tuple[int, list[int]]:
    lines = file.pending()
    return lines.first_sequence, [json.loads(line)["n"] for line in lines.lines]


def test_a_file_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    file = ReportFile(KEY, tmp_path / "reports.jsonl")
    assert not file.read_ahead()
    assert pending(file) == (1, [])


def test_a_line_is_read_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_bytes(numbered(1, 2) + b'{"n":')
    file = ReportFile(KEY, path)
    file.read_ahead()
    assert pending(file) == (1, [1, 2])
    with path.open("ab") as stream:
        stream.write(b"3}\n")
    file.read_ahead()
    assert pending(file) == (1, [1, 2, 3])
    file.close()


def test_what_is_recorded_is_dropped_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "reports.jsonl").write_bytes(numbered(1, 5))
    file = ReportFile(KEY, tmp_path / "reports.jsonl")
    file.read_ahead()
    file.confirm(3)
    assert pending(file) == (4, [4, 5])
    file.close()


def test_a_restarted_reader_begins_after_what_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "reports.jsonl").write_bytes(numbered(1, 2000))
    file = ReportFile(KEY, tmp_path / "reports.jsonl")
    file.confirm(1990)
    file.read_ahead()
    assert pending(file) == (1991, list(range(1991, 2001)))
    file.close()


def test_a_control_plane_that_went_back_gets_the_lines_again(tmp_path: Path) -> None:
    (tmp_path / "reports.jsonl").write_bytes(numbered(1, 10))
    file = ReportFile(KEY, tmp_path / "reports.jsonl")
    file.read_ahead()
    file.confirm(8)
    file.confirm(2)
    file.read_ahead()
    assert pending(file) == (3, list(range(3, 11)))
    file.close()


def test_no_more_than_a_batch_is_read_ahead(tmp_path: Path) -> None:
    (tmp_path / "reports.jsonl").write_bytes(numbered(1, 2 * BATCH_REPORTS))
    file = ReportFile(KEY, tmp_path / "reports.jsonl")
    assert file.read_ahead()
    assert pending(file) == (1, list(range(1, BATCH_REPORTS + 1)))
    file.close()


def test_a_line_longer_than_a_batch_keeps_its_number_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_bytes(numbered(1, 1) + b"x" * (2 * BATCH_BYTES + 5) + b"\n" + numbered(3, 3))
    file = ReportFile(KEY, path)
    file.read_ahead()
    assert list(file.pending().lines) == [b'{"n":1}', b"", b'{"n":3}']
    file.close()


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 400), max_size=30), marks=st.lists(st.integers(0, 60), max_size=30))
def test_however_it_is_written_and_confirmed_every_line_comes_in_order(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], marks: list[int]
) -> None:
    path = tmp_path_factory.mktemp("reports") / "reports.jsonl"
    file, content = ReportFile(KEY, path), numbered(1, 60)
    recorded = 0
    position = 0
    with path.open("wb", buffering=0) as stream:
        for cut, mark in zip(cuts + [len(content)] * 30, [*marks, *([60] * 30)], strict=False):
            stream.write(content[position : position + cut])
            position += cut
            file.read_ahead()
            first, numbers = pending(file)
            assert first <= recorded + 1
            assert numbers == list(range(first, first + len(numbers)))
            recorded = min(mark, first + len(numbers) - 1) if mark >= recorded else recorded
            file.confirm(recorded)
        stream.write(content[position:])
    file.read_ahead()
    assert file.read == 60
    file.close()


class Recorder:
    """Answers as a control plane would, and keeps what it was told. The next answers can be spoilt."""

    def __init__(self) -> None:
        self.batches: list[list[Lines]] = []
        self.applied: dict[AttemptKey, list[bytes]] = {}
        self.failures = 0

    async def report(self, batch: Sequence[Lines]) -> Mapping[AttemptKey, Watermark] | None:
        self.batches.append(list(batch))
        marks = {}
        for part in batch:
            lines = self.applied.setdefault(part.key, [])
            assert part.first_sequence <= len(lines) + 1, "a gap"
            lines += part.lines[len(lines) + 1 - part.first_sequence :]
            marks[part.key] = Watermark(len(lines), stale=False)
        if self.failures:
            self.failures -= 1
            raise NoAnswerError("lost")
        return marks


async def until(recorder: Recorder, key: AttemptKey, count: int) -> None:
    async with asyncio.timeout(20):
        while len(recorder.applied.get(key, [])) < count:
            await asyncio.sleep(0.001)


async def test_a_batch_holds_at_most_its_number_and_its_bytes(tmp_path: Path) -> None:
    recorder = Recorder()
    sender = ReportSender(recorder)  # type: ignore[arg-type]
    (tmp_path / "reports.jsonl").write_bytes(numbered(1, 1700) + (b"y" * 60_000 + b"\n") * 10)
    sender.follow(KEY, tmp_path, applied=0)
    task = asyncio.create_task(sender.run())
    await until(recorder, KEY, 1710)
    task.cancel()
    sender.close()
    for batch in recorder.batches:
        assert sum(len(part.lines) for part in batch) <= BATCH_REPORTS
        assert sum(len(line) for part in batch for line in part.lines) <= BATCH_BYTES


async def test_a_lost_answer_leads_to_the_same_batch_again(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.failures = 2
    sender = ReportSender(recorder)  # type: ignore[arg-type]
    (tmp_path / "reports.jsonl").write_bytes(numbered(1, 5))
    sender.follow(KEY, tmp_path, applied=0)
    task = asyncio.create_task(sender.run())
    async with asyncio.timeout(20):
        while len(recorder.batches) < 3:
            await asyncio.sleep(0.001)
    task.cancel()
    sender.close()
    assert recorder.batches[0] == recorder.batches[1] == recorder.batches[2]
    assert len(recorder.applied[KEY]) == 5


async def test_a_failure_is_withheld_with_nothing_before_it_until_it_may_be_told(tmp_path: Path) -> None:
    recorder, owing = Recorder(), {KEY}
    sender = ReportSender(recorder, withheld=owing.__contains__)  # type: ignore[arg-type]
    failed = b'{"kind": "failed", "reason": "X"}\n'
    for key in (KEY, AttemptKey("FREE", 1)):
        (tmp_path / str(key)).mkdir()
        (tmp_path / str(key) / "reports.jsonl").write_bytes(numbered(1, 3) + b'{"said":"\\"failed\\""}\n' + failed)
        sender.follow(key, tmp_path / str(key), applied=0)
    task = asyncio.create_task(sender.run())
    await until(recorder, AttemptKey("FREE", 1), 5)
    await until(recorder, KEY, 4)
    assert len(recorder.applied[KEY]) == 4
    assert sender.lines(KEY) == 5, "the control plane is told that there is more"
    owing.clear()
    await until(recorder, KEY, 5)
    task.cancel()
    sender.close()


async def test_one_busy_attempt_does_not_silence_the_others(tmp_path: Path) -> None:
    recorder = Recorder()
    sender = ReportSender(recorder)  # type: ignore[arg-type]
    quiet = AttemptKey("QUIET", 1)
    for key, last in ((KEY, 20_000), (quiet, 1)):
        (tmp_path / str(key)).mkdir()
        (tmp_path / str(key) / "reports.jsonl").write_bytes(numbered(1, last))
        sender.follow(key, tmp_path / str(key), applied=0)
    task = asyncio.create_task(sender.run())
    await until(recorder, quiet, 1)
    assert quiet in {part.key for part in recorder.batches[0]}
    await until(recorder, KEY, 20_000)
    task.cancel()
    sender.close()


async def test_a_new_line_is_noticed_at_once(tmp_path: Path) -> None:
    recorder = Recorder()
    sender = ReportSender(recorder)  # type: ignore[arg-type]
    sender.follow(KEY, tmp_path, applied=0)
    task = asyncio.create_task(sender.run())
    with (tmp_path / "reports.jsonl").open("ab", buffering=0) as stream:
        took = []
        for number in range(1, 6):
            stream.write(numbered(number, number))
            began = asyncio.get_running_loop().time()
            await until(recorder, KEY, number)
            took.append(asyncio.get_running_loop().time() - began)
    # The slow look takes a whole second from the look before; a busy machine may take as long now and then.
    assert min(took[1:]) < 0.9, "only the slow look saw them"
    task.cancel()
    sender.close()
