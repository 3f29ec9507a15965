"""A killed training goes on in another attempt's directory and ends in the very same bytes."""

from __future__ import annotations

import json
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest

from agent.checkpoint import verified
from tests.integration.trainer.attempts import Attempt
from tests.integration.trainer.drawing import DRAWING
from tests.integration.trainer.warm import train
from trainplane.backends.peft_methods import METHODS as METHODS_OF_THE_SPEC

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS = 12
EVERY = 3
KILLED = -signal.SIGKILL
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"customization": {"lora_dropout": 0.2}},
    "packed": {"customization": {"lora_dropout": 0.2}, "tuning_parameters": {"packing": True, "eval_fraction": 0.2}},
    "noisy": {"customization": {"lora_dropout": 0.2}, "tuning_parameters": {"neftune_noise_alpha": 5}},
    "dora": {"customization": {"lora_dropout": 0.2, "peft": {"config": {"use_dora": True}}}},
    "olora": {"customization": {"lora_dropout": 0.2, "peft": {"config": {"init_lora_weights": "olora"}}}},
    "bf16": {"customization": {"lora_dropout": 0.2, "precision": "bf16"}},
}
WRITING = ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "rename", "saved"]


def _instants() -> list[tuple[str, str]]:
    """24 places to die: 18 at random steps, before or after the weights move, and each place of a checkpoint's writing."""
    drawn = random.Random(4)
    steps = [
        (method, f"trainer.{drawn.choice(['gradient', 'step'])}-{drawn.randint(1, STEPS)}")
        for method in METHODS
        for _ in range(3)
    ]
    writing = [
        (method, f"trainer.checkpoint-{drawn.randrange(EVERY, STEPS, EVERY)}.{place}")
        for method, place in zip(METHODS, WRITING, strict=True)
    ]
    return steps + writing


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Attempt]:
    data = tmp_path_factory.mktemp("data") / "rows.jsonl"
    drawn = random.Random(1)
    rows = [
        {"prompt": f"What is {number}? ", "completion": f"It is {' and '.join([str(number)] * drawn.randint(1, 9))}."}
        for number in range(22)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def attempt(method: str, *, resume_from: Path | None = None, **tuning: Any) -> Attempt:
        made = Attempt(tmp_path_factory.mktemp("attempt"), tiny_model)
        changes = METHODS[method]
        made.assign(
            customization=changes["customization"],
            tuning_parameters={
                "batch_size": 4, "max_steps": STEPS, "checkpoint_steps": EVERY, **changes.get("tuning_parameters", {}), **tuning
            },
        )  # fmt: skip
        path = made.directory / "assignment.json"
        document = json.loads(path.read_text())
        document["spec"]["datasets"] = [{"source": data.as_uri()}]
        if resume_from is not None:
            document |= {"attempt": 2, "resume_from": str(resume_from)}
        path.write_text(json.dumps(document))
        return made

    return attempt


@pytest.fixture(scope="module")
def never_killed(make: Callable[..., Attempt]) -> Callable[[str], Attempt]:
    done: dict[str, Attempt] = {}

    def attempt(method: str) -> Attempt:
        if method not in done:
            done[method] = make(method)
            assert train(done[method].directory) == 0, done[method].reports[-1]
        return done[method]

    return attempt


def weights(attempt: Attempt) -> bytes:
    return (attempt.output / "adapter_model.safetensors").read_bytes()


def _last_whole(failpoint: str) -> int:
    """The step of the newest whole checkpoint after a death there."""
    place, _, rest = failpoint.removeprefix("trainer.").partition("-")
    step, _, file = rest.partition(".")
    if place == "checkpoint":
        return int(step) if file == "saved" else int(step) - EVERY
    return (int(step) - 1) // EVERY * EVERY


@pytest.mark.parametrize(("method", "instant"), _instants())
def test_it_ends_in_the_same_bytes(
    method: str, instant: str, make: Callable[..., Attempt], never_killed: Callable[[str], Attempt]
):
    whole = never_killed(method)
    killed = make(method)
    assert train(killed.directory, failpoint=instant) == KILLED
    assert not killed.said("failed")
    assert not killed.said("finished")
    root = killed.directory / "checkpoints"
    places = sorted(int(path.name) for path in root.glob("[0-9]*")) if root.exists() else []
    assert max(places, default=0) == _last_whole(instant)

    resumed = make(method, resume_from=root)
    assert train(resumed.directory) == 0, resumed.reports[-1]
    assert weights(resumed) == weights(whole)
    facts = resumed.provenance
    assert facts["training"]["resumed_from"] == _last_whole(instant)
    assert facts["losses"] == whole.provenance["losses"]
    assert facts["ranks"] == whole.provenance["ranks"]
    for name in ("tokens", "trained_tokens", "padded_tokens", "micro_batch_size", "steps"):
        assert facts["training"][name] == whole.provenance["training"][name]
    said = [report.get("message", "") for report in resumed.said("phase") if report["phase"] == "TRAINING"]
    step = _last_whole(instant)
    assert said == [f"goes on from the checkpoint of step {step}" if step else ""]


def test_killed_again_and_again_it_still_ends_in_the_same_bytes(
    make: Callable[..., Attempt], never_killed: Callable[[str], Attempt]
):
    root = None
    for instant in ("trainer.step-4", "trainer.gradient-8", "trainer.step-11"):
        attempt = make("packed", resume_from=root)
        assert train(attempt.directory, failpoint=instant) == KILLED
        root = attempt.directory / "checkpoints"
    last = make("packed", resume_from=root)
    assert train(last.directory) == 0
    assert weights(last) == weights(never_killed("packed"))
    assert last.provenance["training"]["resumed_from"] == 9


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("fault", ["missing", "cut", "altered"])
def test_a_broken_checkpoint_is_passed_over_for_the_one_before(
    file: str, fault: str, make: Callable[..., Attempt], never_killed: Callable[[str], Attempt]
):
    killed = make("lora")
    assert train(killed.directory, failpoint="trainer.step-8") == KILLED
    victim = killed.directory / "checkpoints" / "00000006" / file
    content = victim.read_bytes()
    if fault == "missing":
        victim.unlink()
    elif fault == "cut":
        victim.write_bytes(content[:-1])
    else:
        victim.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])

    resumed = make("lora", resume_from=killed.directory / "checkpoints")
    assert train(resumed.directory) == 0
    assert resumed.provenance["training"]["resumed_from"] == 3
    [warning] = resumed.said("warning")
    assert warning["reason"] == "CHECKPOINT_UNUSABLE"
    assert warning["message"].startswith("the checkpoint of step 6 is passed over: ")
    assert weights(resumed) == weights(never_killed("lora"))


def test_another_trainings_checkpoint_is_refused_in_words(make: Callable[..., Attempt]):
    killed = make("lora")
    assert train(killed.directory, failpoint="trainer.step-5") == KILLED
    other = make("lora", resume_from=killed.directory / "checkpoints", max_sequence_length=12)
    assert train(other.directory) == 0
    assert other.provenance["training"]["resumed_from"] == 0
    said = [warning["message"] for warning in other.said("warning") if warning["reason"] == "CHECKPOINT_UNUSABLE"]
    assert said == [
        "the checkpoint of step 3 is passed over: it is of other data, another model or another number of devices",
        "no checkpoint can be used; training begins at step 0",
    ]


def test_the_newest_are_kept(make: Callable[..., Attempt]):
    attempt = make("lora", checkpoint_steps=2, checkpoint_limit=3)
    assert train(attempt.directory) == 0
    kept = sorted((attempt.directory / "checkpoints").iterdir())
    assert [int(path.name) for path in kept] == [6, 8, 10]
    log = (attempt.directory / "rank-0.log").read_text()
    for step, path in zip([6, 8, 10], kept, strict=True):
        whole = verified(path)
        assert f"checkpoint step={step} bytes={whole.size_bytes} sha256={whole.manifest_digest}" in log
        assert whole.size_bytes == sum(file.stat().st_size for file in path.iterdir())
    told = {each.pop("step"): each for each in attempt.said("checkpoint")}
    assert {step: each["oldest_step"] for step, each in told.items()} == {2: 2, 4: 2, 6: 2, 8: 4, 10: 6}
    for step, path in zip([6, 8, 10], kept, strict=True):
        whole = verified(path)
        assert told[step]["manifest_digest"] == whole.manifest_digest
        assert told[step]["size_bytes"] == whole.size_bytes


def test_two_ranks_go_on_with_the_samples_that_they_would_have_had(make: Callable[..., Attempt]):
    attempts = {"whole": make("packed"), "killed": make("packed")}
    for attempt in attempts.values():
        attempt.set_ranks(2)
    assert train(attempts["whole"].directory) == 0, attempts["whole"].reports[-1]
    assert train(attempts["killed"].directory, failpoint="trainer.step-5") == 1
    assert attempts["killed"].reports[-1]["reason"] == "TRAINER_CRASHED"
    resumed = make("packed", resume_from=attempts["killed"].directory / "checkpoints")
    resumed.set_ranks(2)
    assert train(resumed.directory) == 0, resumed.reports[-1]
    assert resumed.provenance["training"]["resumed_from"] == 3
    assert weights(resumed) == weights(attempts["whole"])
    assert resumed.provenance["ranks"] == attempts["whole"].provenance["ranks"]


@pytest.mark.parametrize("method", METHODS_OF_THE_SPEC)
def test_every_method_goes_on_packed_and_shuffled_with_what_it_draws(method: str, make: Callable[..., Attempt]):
    def attempt(resume_from: Path | None = None) -> Attempt:
        noise = {} if METHODS_OF_THE_SPEC[method].prompt else {"neftune_noise_alpha": 5, "packing": True}
        made = make("lora", resume_from=resume_from, learning_rate=1e-2, eval_fraction=0.2, **noise)
        path = made.directory / "assignment.json"
        document = json.loads(path.read_text())
        document["spec"]["customization"] = {"method": method, "precision": "fp32", **DRAWING.get(method, {})}
        path.write_text(json.dumps(document))
        return made

    whole, killed = attempt(), attempt()
    assert train(whole.directory) == 0, whole.reports[-1]
    assert train(killed.directory, failpoint="trainer.step-8") == KILLED
    resumed = attempt(killed.directory / "checkpoints")
    assert train(resumed.directory) == 0, resumed.reports[-1]
    assert resumed.provenance["training"]["resumed_from"] == 6
    assert resumed.provenance["losses"] == whole.provenance["losses"]
    files = sorted(path.name for path in whole.output.glob("*.safetensors"))
    assert files
    assert [(resumed.output / name).read_bytes() for name in files] == [
        (whole.output / name).read_bytes() for name in files
    ]


@pytest.mark.parametrize("killed_at", [5, 8, 11])
def test_adalora_goes_on_with_the_ranks_and_scores_that_it_had(killed_at: int, make: Callable[..., Attempt]):
    """Killed before its ranks fall, while they fall, and after they were fixed for good at step 9."""

    def attempt(resume_from: Path | None = None) -> Attempt:
        made = make("lora", resume_from=resume_from, learning_rate=1e-2)
        path = made.directory / "assignment.json"
        document = json.loads(path.read_text())
        config = {"init_r": 6, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 1}
        document["spec"]["customization"] = {
            "method": "adalora",
            "precision": "fp32",
            "rank": 4,
            "peft": {"config": config},
        }
        path.write_text(json.dumps(document))
        return made

    whole, killed = attempt(), attempt()
    assert train(whole.directory) == 0, whole.reports[-1]
    ranks = json.loads((whole.output / "adapter_config.json").read_text())["rank_pattern"]
    assert len({sum(kept) for kept in ranks.values()}) > 1
    assert train(killed.directory, failpoint=f"trainer.step-{killed_at}") == KILLED
    resumed = attempt(killed.directory / "checkpoints")
    assert train(resumed.directory) == 0, resumed.reports[-1]
    assert resumed.provenance["training"]["resumed_from"] == (killed_at - 1) // EVERY * EVERY
    assert resumed.provenance["losses"] == whole.provenance["losses"]
    assert weights(resumed) == weights(whole)
    assert json.loads((resumed.output / "adapter_config.json").read_text())["rank_pattern"] == ranks
