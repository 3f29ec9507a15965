"""Steps and learning rates, against a golden file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.trainer.assignment import Tuning
from agent.trainer.schedule import schedule_for

GOLDEN = Path(__file__).parents[2] / "golden" / "trainer" / "learning_rates.json"
CASES = {
    f"{kind}-{warmup}": Tuning(learning_rate=1e-3, lr_scheduler=kind, warmup_ratio=warmup, max_steps=20)
    for kind in ("linear", "cosine", "constant")
    for warmup in (0.0, 0.25)
}


@pytest.mark.parametrize("case", CASES)
def test_the_rates_are_those_of_the_golden_file(case: str):
    schedule = schedule_for(CASES[case], examples=100)
    rates = [schedule.rate(step) for step in range(schedule.total_steps)]
    assert rates == pytest.approx(json.loads(GOLDEN.read_text())[case], rel=1e-9)


def test_no_step_is_wasted_and_none_is_above_the_peak():
    for tuning in CASES.values():
        schedule = schedule_for(tuning, examples=100)
        assert all(0 < schedule.rate(step) <= tuning.learning_rate for step in range(schedule.total_steps))
        assert max(schedule.rate(step) for step in range(schedule.total_steps)) == tuning.learning_rate


@pytest.mark.parametrize(
    ("examples", "batch_size", "num_epochs", "steps"),
    [(10, 4, 1, 3), (10, 4, 2, 6), (10, 4, 0.5, 2), (30, 1, 0.1, 3), (10, 4, 0.0001, 1), (1, 64, 3, 3)],
)
def test_epochs_may_be_fractions(examples: int, batch_size: int, num_epochs: float, steps: int):
    schedule = schedule_for(Tuning(batch_size=batch_size, num_epochs=num_epochs), examples=examples)
    assert schedule.total_steps == steps
    assert schedule.epoch(steps) >= num_epochs - 1e-9


def test_max_steps_alone_says_how_long():
    assert schedule_for(Tuning(max_steps=500, num_epochs=1), examples=8).total_steps == 500
    assert schedule_for(Tuning(max_steps=2, num_epochs=9), examples=800).total_steps == 2


def test_warm_up_may_fill_the_whole_training():
    schedule = schedule_for(Tuning(warmup_ratio=1.0, max_steps=4, learning_rate=1.0), examples=8)
    assert [schedule.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
