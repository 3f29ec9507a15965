"""TensorBoard's event files, read by TensorBoard's own reader."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from agent.trainer.curves import Curves
from tests.integration.trainer.attempts import Attempt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_every_step_and_both_evaluations(attempt: Attempt):
    rows = attempt.dataset([{"prompt": "What is 99? ", "completion": "It is 99."}], "eval.jsonl")
    train = attempt.dataset([{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(24)])
    attempt.assign(datasets=[{"source": train}, {"source": rows, "split": "eval"}])
    assert attempt.run() == 0
    found = read(attempt.directory / "tensorboard")
    assert set(found) == {
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens_per_second",
        "eval/loss",
    }
    losses = attempt.provenance["losses"]
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in found["train/loss"]] == pytest.approx(losses["steps"], rel=1e-6)
    before, after = losses["eval_before"], losses["eval_after"]
    assert found["eval/loss"] == [(0, pytest.approx(before, rel=1e-5)), (6, pytest.approx(after, rel=1e-5))]
    assert read(attempt.output / "tensorboard") == found


def test_an_attempt_that_goes_on_continues_the_same_curves(tmp_path: Path, tiny_model: Path):
    """The first one's files stop beyond its last checkpoint, as after a crash; both lie in one directory at last."""

    def made(name: str, number: int, **more: Any) -> Attempt:
        (tmp_path / name).mkdir()
        attempt = Attempt(tmp_path / name, tiny_model)
        attempt.assign(tuning_parameters={"checkpoint_steps": 2, "max_steps": 6})
        path = attempt.directory / "assignment.json"
        import json

        path.write_text(json.dumps({**json.loads(path.read_text()), "attempt": number, **more}))
        assert attempt.run() == 0
        return attempt

    first = made("first", 1)
    newest = max((first.directory / "checkpoints").iterdir())
    assert newest.name == "00000004"
    second = made("second", 2, resume_from=str(newest.parent))
    assert second.provenance["training"]["resumed_from"] == 4
    together = tmp_path / "together"
    for attempt in (first, second):
        shutil.copytree(attempt.directory / "tensorboard", together, dirs_exist_ok=True)
    assert sorted(path.name for path in together.iterdir()) == [
        "events.out.tfevents.000001",
        "events.out.tfevents.000002",
    ]
    assert [step for step, _ in read(attempt.output / "tensorboard")["train/loss"]] == [5, 6]
    found, alone = read(together)["train/loss"], read(first.directory / "tensorboard")["train/loss"]
    assert found == alone
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6]


def test_what_a_lost_attempt_made_beyond_the_checkpoint_is_dropped(tmp_path: Path):
    lost = Curves(tmp_path, 1, first_step=0)
    for step in range(1, 6):
        lost.add(step, {"train/loss": float(step)})
    again = Curves(tmp_path, 2, first_step=3)
    for step in range(3, 5):
        again.add(step, {"train/loss": 10.0 * step})
    assert read(tmp_path / "tensorboard")["train/loss"] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_a_record_cut_off_by_a_crash_hides_nothing_before_it(tmp_path: Path):
    curves = Curves(tmp_path, 1, first_step=0)
    for step in (1, 2, 3):
        curves.add(step, {"train/loss": 1.5})
    whole = curves.path.read_bytes()
    curves.path.write_bytes(whole[:-7])
    assert [step for step, _ in read(tmp_path / "tensorboard")["train/loss"]] == [1, 2]
    broken = bytearray(whole)
    broken[-12] ^= 1
    curves.path.write_bytes(broken)
    assert [step for step, _ in read(tmp_path / "tensorboard")["train/loss"]] == [1, 2], "no checksum was compared"
