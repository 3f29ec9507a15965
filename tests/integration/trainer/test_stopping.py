"""A training that is told to stop keeps the step that it was in, and goes on from there to the very same bytes."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from agent.checkpoint import verified
from agent.trainer.__main__ import attend
from agent.trainer.reports import Reports
from agent.trainer.stopping import STOP
from tests.integration.trainer.attempts import Attempt
from tests.integration.trainer.test_process import FAKE, fake
from tests.integration.trainer.test_ranks import STARTED_SECONDS, TRAINER, assert_gone, begun
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS = 9
TERMINATED = 143


class AskingReports(Reports):
    """Asks for the stop when the checkpoint of a step is told, and so while the next step is being made."""

    def __init__(self, directory: Path, *, after_step: int, by_deadline: bool = False) -> None:
        super().__init__(directory)
        self.after_step = after_step
        self.by_deadline = by_deadline

    def append(self, kind: str, **fields: Any) -> bool:
        if kind == "checkpoint" and fields["step"] == self.after_step:
            assert STOP.ask(by_deadline=self.by_deadline)
        return super().append(kind, **fields)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Attempt]:
    data = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"prompt": f"What is {n}? ", "completion": "It is" + f" {n}" * (n % 5 + 1)} for n in range(22)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def attempt(*, resume_from: Path | None = None, **tuning: Any) -> Attempt:
        made = Attempt(tmp_path_factory.mktemp("attempt"), tiny_model)
        made.assign(
            customization={"lora_dropout": 0.2},
            artifacts={"output_uri": "s3://bucket/out"},
            tuning_parameters={"batch_size": 4, "max_steps": STEPS, "packing": True, "eval_fraction": 0.2, **tuning},
        )
        path = made.directory / "assignment.json"
        document = json.loads(path.read_text())
        document["spec"]["datasets"] = [{"source": data.as_uri()}]
        if resume_from is not None:
            document |= {"attempt": 2, "resume_from": str(resume_from)}
        path.write_text(json.dumps(document))
        return made

    return attempt


@pytest.fixture(scope="module")
def whole(make: Callable[..., Attempt]) -> Attempt:
    attempt = make()
    assert attempt.run() == 0
    return attempt


def ask(attempt: Attempt, **when: Any) -> int:
    """Train until the stop is asked for; the exit status."""
    return attend(attempt.directory, AskingReports(attempt.directory, **when), own=lambda _document: None)


def kept(attempt: Attempt) -> list[int]:
    """The steps of its checkpoints, each of them whole."""
    return [verified(path).step for path in sorted((attempt.directory / "checkpoints").iterdir())]


def points(attempt: Attempt) -> list[int]:
    """The steps that its curves have."""
    return [
        step for report in attempt.said("metrics") if "loss" in report["series"] for step in report["series"]["step"]
    ]


@pytest.mark.parametrize("after_step", [1, 4, STEPS - 1])
def test_it_goes_on_to_the_bytes_of_a_training_that_was_never_stopped(
    make: Callable[..., Attempt], whole: Attempt, after_step: int
):
    """Also where the stop comes in the last step of all."""
    stopped = make(checkpoint_steps=after_step)
    assert ask(stopped, after_step=after_step) == TERMINATED
    assert kept(stopped) == [after_step, after_step + 1]
    assert [told["step"] for told in stopped.said("checkpoint")] == [after_step, after_step + 1]
    assert not {"failed", "finished"} & {report["kind"] for report in stopped.reports}
    resumed = make(resume_from=stopped.directory / "checkpoints")
    assert resumed.run() == 0, resumed.reports[-1]
    assert resumed.provenance["training"]["resumed_from"] == after_step + 1
    assert resumed.provenance["losses"] == whole.provenance["losses"]
    weights = "adapter_model.safetensors"
    assert (resumed.output / weights).read_bytes() == (whole.output / weights).read_bytes()
    assert points(stopped) + points(resumed) == list(range(1, STEPS + 1))


def test_the_deadline_is_told_with_the_step_that_is_kept(make: Callable[..., Attempt]):
    attempt = make(checkpoint_steps=4)
    assert ask(attempt, after_step=4, by_deadline=True) == 1
    assert kept(attempt) == [4, 5]
    last = attempt.reports[-1]
    assert (last["kind"], last["reason"]) == ("failed", "DEADLINE_EXCEEDED")
    assert last["message"].startswith("resources.max_duration_minutes: ")
    assert last["message"].endswith(
        "; the state after step 5 is kept as a checkpoint below s3://bucket/out/.checkpoints/01JTEST/"
    )


def test_a_disk_that_takes_no_last_checkpoint_makes_no_failure_of_a_stop(make: Callable[..., Attempt]):
    attempt = make(checkpoint_steps=4)
    place = attempt.directory / "checkpoints" / ".writing-00000005"

    class Blocking(AskingReports):
        def append(self, kind: str, **fields: Any) -> bool:
            if kind == "checkpoint":
                place.write_text("no directory can be made here")
            return super().append(kind, **fields)

    reports = Blocking(attempt.directory, after_step=4)
    assert attend(attempt.directory, reports, own=lambda _document: None) == TERMINATED
    assert not {"failed", "finished"} & {report["kind"] for report in attempt.reports}
    place.unlink()
    assert kept(attempt) == [4]


async def test_a_stop_that_wants_no_checkpoint_gets_none(attempt: Attempt, start: Any):
    attempt.assign(tuning_parameters={"max_steps": 1_000_000})
    process = start(TRAINER, attempt.directory)
    await eventually(lambda: "progress" in process.kinds(), deadline_seconds=STARTED_SECONDS)
    (attempt.directory / "stop.json").write_text('{"reason": "CANCELLED", "own": false, "checkpoint": false}')
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == TERMINATED
    assert not (attempt.directory / "checkpoints").exists()


async def test_a_rank_that_hangs_is_killed_when_the_patience_is_over(attempt: Attempt, start: Any):
    process, members = await begun(attempt, start, 2, checkpoint_grace_seconds=1.0)
    members[1].suspend()
    process.popen.send_signal(signal.SIGTERM)
    process.popen.send_signal(signal.SIGTERM)  # as an agent does that was restarted: no reason to hurry
    assert process.wait() == TERMINATED
    assert_gone(members)


async def test_ranks_are_killed_at_once_where_no_checkpoint_is_wanted(attempt: Attempt, start: Any):
    process, members = await begun(attempt, start, 2, checkpoint_grace_seconds=600.0)
    members[1].suspend()
    process.popen.send_signal(signal.SIGTERM)
    (attempt.directory / "stop.json").write_text('{"reason": "CANCELLED", "own": false, "checkpoint": false}')
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == TERMINATED
    assert_gone(members)


@pytest.mark.parametrize(("deadline_seconds", "status"), [(None, TERMINATED), (0.3, 1)])
async def test_the_fake_says_a_last_checkpoint_too(
    tmp_path: Path, start: Any, deadline_seconds: float | None, status: int
):
    knobs = {"steps": 10_000, "step_seconds": 0.01, "checkpoint_every": 10_000}
    process = start(FAKE, fake(tmp_path, deadline_seconds=deadline_seconds, **knobs))
    await eventually(lambda: "progress" in process.kinds())
    if deadline_seconds is None:
        process.popen.terminate()
    assert process.wait() == status
    assert "checkpoint" in process.kinds()
    assert process.kinds()[-1] == ("checkpoint" if deadline_seconds is None else "failed")


@pytest.mark.parametrize(("deadline_seconds", "status"), [(None, TERMINATED), (0.3, 1)])
async def test_one_that_hangs_is_ended_when_its_patience_is_over(
    tmp_path: Path, start: Any, deadline_seconds: float | None, status: int
):
    knobs = {"steps": 3, "step_seconds": 0.0, "checkpoint_every": 1, "hang_at_step": 2}
    directory = fake(tmp_path, deadline_seconds=deadline_seconds, **knobs)
    path = directory / "assignment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoint_grace_seconds": 0.5}))
    process = start(FAKE, directory)
    await eventually(lambda: "progress" in process.kinds())
    if deadline_seconds is None:
        process.popen.terminate()
    assert process.wait() == status


EXPLODING = {"learning_rate": 1e4, "max_grad_norm": 0, "warmup_ratio": 1.0, "max_steps": 20, "checkpoint_steps": 1}


def lost(attempt: Attempt) -> str:
    """Train to a loss that is not finite; what is said of what is left."""
    assert attempt.run() == 1
    last = attempt.reports[-1]
    assert (last["kind"], last["reason"]) == ("failed", "LOSS_NOT_FINITE")
    return last["message"].partition("broken rows")[2]


def test_a_loss_that_is_not_finite_names_the_last_checkpoint_that_proved_good_and_leaves_it_as_the_newest(
    make: Callable[..., Attempt],
):
    """Weights that are finite may be lost all the same: those of the step before gave the gradient that is not."""
    attempt = make(**EXPLODING)
    left = lost(attempt)
    written = [told["step"] for told in attempt.said("checkpoint")]
    assert len(written) > 2
    *_, good, _suspect = written
    place = "below s3://bucket/out/.checkpoints/01JTEST/"
    assert left == f"; the state after step {good} is kept as a checkpoint {place}, and was good"
    assert kept(attempt) == [good]

    again = make(**EXPLODING, resume_from=attempt.directory / "checkpoints")
    assert lost(again) == left
    losses = [value for told in again.said("metrics") for value in told["series"].get("loss", [])]
    assert len(losses) == 1, "the step after the good one can be made, and no other"


def test_of_the_only_checkpoint_it_says_that_it_proves_nothing(make: Callable[..., Attempt]):
    attempt = make(**EXPLODING, checkpoint_limit=1)
    left = lost(attempt)
    [step] = kept(attempt)
    assert step == attempt.said("checkpoint")[-1]["step"]
    assert left.endswith(": the only one, and this step was made from it")
    none = make(**{**EXPLODING, "checkpoint_steps": 100})
    assert lost(none) == "; there is no checkpoint of the steps before"
