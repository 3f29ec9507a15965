"""The reports file: whole lines, one terminal, nothing after it."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.trainer import first_line
from agent.trainer.metrics import MOST_POINTS, MetricsRecorder, Point
from agent.trainer.progress import ProgressMeter
from agent.trainer.reports import MESSAGE_LIMIT, Reports, Unheard
from agent.trainer.schedule import Schedule
from agent.trainer.train import Halved, Step

if TYPE_CHECKING:
    from pathlib import Path


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "reports.jsonl").read_text().splitlines()]


def test_the_first_line_is_a_report_like_any_other(tmp_path: Path):
    first_line.append_started(str(tmp_path))
    Reports(tmp_path).phase("TRAINING")
    started, phase = lines(tmp_path)
    assert started["kind"] == "started"
    assert started["pid"] > 0
    assert phase["phase"] == "TRAINING"
    for report in (started, phase):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", report["time"])


def test_nothing_follows_a_terminal_report(tmp_path: Path):
    reports = Reports(tmp_path)
    assert reports.failed("X", "words")
    assert not reports.finished()
    reports.phase("TRAINING")
    assert [report["kind"] for report in lines(tmp_path)] == ["failed"]


def test_of_many_threads_one_has_the_last_word_and_no_line_is_mixed(tmp_path: Path):
    reports = Reports(tmp_path)

    def talk(number: int) -> None:
        for _ in range(50):
            reports.warning("W", f"{number} " * 200)
        reports.failed("END", str(number))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report["kind"] for report in lines(tmp_path)].count("failed") == 1
    assert lines(tmp_path)[-1]["kind"] == "failed"


def test_a_long_message_is_cut_and_a_surrogate_does_no_harm(tmp_path: Path):
    Reports(tmp_path).failed("X", "\ud800" + "é" * 10_000)
    assert len(lines(tmp_path)[0]["message"]) == MESSAGE_LIMIT


def test_a_number_that_json_lacks_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Reports(tmp_path).append("progress", loss=float("nan"))


def step(number: int, *, seconds: float) -> Step:
    return Step(
        number,
        2.0,
        1e-4,
        0.5,
        tokens=100,
        trained_tokens=50,
        padded_tokens=120,
        micro_batches=1,
        micro_batch_examples=4,
        seconds=seconds,
    )


def test_progress_comes_once_a_second_and_always_first_and_last(tmp_path: Path):
    now = [100.0]
    schedule = Schedule("linear", 1e-4, 0, total_steps=41, steps_per_epoch=10)
    meter = ProgressMeter(Reports(tmp_path), schedule, memory_bytes=lambda: 7, clock=lambda: now[0])
    for number in range(1, 42):
        now[0] += 0.25
        meter.on_step(step(number, seconds=0.25))
    reports = lines(tmp_path)
    assert [report["step"] for report in reports] == [1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41]
    assert {report["tokens_per_second"] for report in reports} == {400.0}
    assert reports[1]["remaining_seconds"] == 9.0
    assert reports[1]["epoch"] == 0.5
    assert reports[-1]["remaining_seconds"] == 0
    assert reports[-1]["gpu_memory_bytes"] == 7


def test_slow_steps_are_each_reported(tmp_path: Path):
    now = [0.0]
    schedule = Schedule("linear", 1e-4, 0, total_steps=4, steps_per_epoch=4)
    meter = ProgressMeter(Reports(tmp_path), schedule, memory_bytes=lambda: 0, clock=lambda: now[0])
    for number in range(1, 5):
        now[0] += 30.0
        meter.on_step(step(number, seconds=30.0))
    assert [report["remaining_seconds"] for report in lines(tmp_path)] == [90.0, 60.0, 30.0, 0.0]


@pytest.mark.parametrize(
    ("halved", "words"),
    [
        (
            Halved(512, 128),
            "at step 2 a pass of 512 tokens did not fit into the device's memory; from now on one has at most 128. ",
        ),
        (
            Halved(0, 0),
            "at step 2 another device's passes did not fit into its memory, which makes smaller ones from now on. ",
        ),
    ],
)
def test_passes_that_were_halved_are_told_whenever_it_was(tmp_path: Path, halved: Halved, words: str):
    schedule = Schedule("linear", 1e-4, 0, total_steps=9, steps_per_epoch=4)
    meter = ProgressMeter(Reports(tmp_path), schedule, memory_bytes=lambda: 0, clock=lambda: 0.0)
    for number in range(1, 4):
        meter.on_step(replace(step(number, seconds=0.1), halved=halved if number == 2 else None))
    [told] = [report for report in lines(tmp_path) if report["kind"] == "warning"]
    assert told["reason"] == "MICRO_BATCH_HALVED"
    assert told["message"].startswith(words + "Each step still has all examples of tuning_parameters.batch_size")


def series(directory: Path) -> list[dict[str, list[float]]]:
    return [report["series"] for report in lines(directory) if report["kind"] == "metrics"]


def test_every_step_is_a_point_and_a_line_comes_about_every_five_seconds(tmp_path: Path):
    now = [100.0]
    recorder = MetricsRecorder(Reports(tmp_path), total_steps=25, clock=lambda: now[0])
    for number in range(1, 26):
        now[0] += 0.5
        recorder.add(step(number, seconds=0.5).point)
    assert [points["step"] for points in series(tmp_path)] == [[*range(1, 11)], [*range(11, 21)], [*range(21, 26)]]
    for points in series(tmp_path):
        assert tuple(points) == Point._fields
        assert {len(values) for values in points.values()} == {len(points["step"])}
        assert set(points["tokens_per_second"]) == {200.0}


def test_a_line_of_metrics_has_a_bounded_number_of_points(tmp_path: Path):
    recorder = MetricsRecorder(Reports(tmp_path), total_steps=2 * MOST_POINTS + 1, clock=lambda: 0.0)
    for number in range(1, 2 * MOST_POINTS + 2):
        recorder.add(step(number, seconds=0.001).point)
    assert [len(points["step"]) for points in series(tmp_path)] == [MOST_POINTS, MOST_POINTS, 1]
    assert max(map(len, (tmp_path / "reports.jsonl").read_bytes().splitlines())) < 64 << 10


def test_ranks_beside_the_first_write_nothing(tmp_path: Path):
    reports = Unheard()
    reports.phase("TRAINING")
    reports.warning("W", "words")
    assert not reports.append("progress", step=1)
    assert not reports.ended
