"""The tests. Each takes the fixture `subject` (a `Subject`); those that only look at a whole run share one."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from trainplane import backends

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.conformance.subject import Run, Subject

KINDS = {"started", "phase", "progress", "metrics", "checkpoint", "warning", "failed", "finished"}
PHASES = {"FETCHING_MODEL", "PREPARING_DATA", "TRAINING", "EVALUATING", "MERGING", "UPLOADING"}
PROGRESS = {"step", "total_steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second"}
PROGRESS |= {"gpu_memory_bytes", "remaining_seconds"}
#: What of an attempt's directory a trainer may write.
WRITTEN = {
    "reports.jsonl",
    "logs",
    "heartbeat",
    "rendezvous",
    "checkpoints",
    "output",
    "tensorboard",
    "audit.json",
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
GRACE_SECONDS = 10.0
LAST_CHECKPOINT_SECONDS = 30.0
RARELY = {"tuning_parameters": {"checkpoint_steps": 10_000_000}}
TERMINATED_STATUS = 143
_T = TypeVar("_T")


def _of_trainers(test: _T) -> _T:
    """Only what really trains is held to it: whoever collects the suite may leave it out for a stand-in."""
    test.of_trainers = True  # type: ignore[attr-defined]
    return test


@pytest.fixture(scope="module")
def whole(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A training that nothing disturbed, at its end."""
    run = subject.run(tmp_path_factory.mktemp("whole"))
    status = run.end()
    assert status == 0, run.log[-3000:]
    yield run
    run.kill()


@pytest.fixture(scope="module")
def killed(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that was killed when it had written two checkpoints."""
    run = subject.run(tmp_path_factory.mktemp("killed"))
    if subject.trains:
        run.until(lambda: len(run.checkpoints) >= 2, "two checkpoints")
    run.kill()
    assert not run.said("finished"), "it was too quick for this test; give it more rows"
    return run


@pytest.fixture
def runs(subject: Subject, tmp_path: Path) -> Iterator[Any]:
    """Starts attempts; what is left of them is killed with the test."""
    started: list[Run] = []

    def begin(*changes: Any, **how: Any) -> Run:
        started.append(subject.run(tmp_path, *changes, **how))
        return started[-1]

    yield begin
    for run in started:
        run.kill()


def test_it_is_judged_without_torch_and_accepts_what_the_suite_asks(subject: Subject, tmp_path: Path) -> None:
    spec = json.dumps(subject.spec(tmp_path / "rows.jsonl"))
    program = (
        "import json, sys; from trainplane import backends; found = backends.find(sys.argv[1]); "
        "print(json.dumps(found.validate(json.loads(sys.argv[2])))); sys.exit('torch' in sys.modules)"
    )
    path = [str(Path(backends.__file__).parents[2]), *sys.path]
    ran = subprocess.run(
        [sys.executable, "-c", program, subject.name, spec],
        env={"PYTHONPATH": ":".join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr or "torch was imported"
    assert json.loads(ran.stdout) == []


def test_an_option_that_it_does_not_have_is_refused_by_name(subject: Subject, tmp_path: Path) -> None:
    backend = backends.find(subject.name)
    assert backend is not None
    spec = subject.spec(tmp_path / "rows.jsonl", {"backend_options": {"no_such_option_of_any_engine": 1}})
    found = backend.validate(spec)
    assert "backend_options.no_such_option_of_any_engine" in [field for field, _, _ in found]
    assert all(description for _, _, description in found)


def test_its_first_line_says_which_process_it_is(whole: Run) -> None:
    first = whole.reports[0]
    assert (first["kind"], first["pid"]) == ("started", whole.process.pid)
    assert len(whole.said("started")) == 1


def test_every_line_is_one_of_the_contract_s(whole: Run) -> None:
    assert (whole.directory / "reports.jsonl").read_bytes().endswith(b"\n")
    for line in whole.lines:
        report = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert report["kind"] in KINDS
        assert TIME.fullmatch(report["time"]), line
        assert len(line) < 256 * 1024


def test_its_last_line_and_its_exit_status_say_that_it_is_done(whole: Run) -> None:
    terminal = [report["kind"] for report in whole.reports if report["kind"] in ("failed", "finished")]
    assert (terminal, whole.reports[-1]["kind"], whole.process.returncode) == (["finished"], "finished", 0)


def test_its_phases_are_the_platform_s_words_and_training_is_one(whole: Run) -> None:
    phases = [report["phase"] for report in whole.said("phase")]
    assert set(phases) <= PHASES
    assert "TRAINING" in phases
    first_step = next(place for place, report in enumerate(whole.reports) if report["kind"] == "progress")
    assert "TRAINING" in [report["phase"] for report in whole.reports[:first_step] if report["kind"] == "phase"]


def test_progress_begins_with_the_first_step_and_ends_with_the_last(whole: Run) -> None:
    told = whole.said("progress")
    steps = [report["step"] for report in told]
    total = {report["total_steps"] for report in told}
    assert steps == sorted(set(steps))
    assert (steps[0], {steps[-1]}) == (1, total)
    for report in told:
        assert set(report) >= PROGRESS
        assert all(math.isfinite(report[name]) for name in PROGRESS)


def test_every_step_is_one_point_of_the_metrics(whole: Run) -> None:
    told = [report["series"] for report in whole.said("metrics")]
    for series in told:
        assert len({len(values) for values in series.values()}) == 1
        assert len(series) <= 16
        assert len(series["step"]) <= 500
        assert all(re.fullmatch("[a-z0-9_]+", name) for name in series)
    steps = [step for series in told for step in series["step"]]
    assert steps == list(range(1, whole.said("progress")[-1]["total_steps"] + 1))


def test_what_it_leaves_can_be_published(whole: Run) -> None:
    output = whole.directory / "output"
    files = [path for path in output.rglob("*") if not path.is_dir()]
    assert files
    assert not [path for path in files if path.is_symlink() or not path.is_file()]
    assert not (output / "manifest.json").exists(), "the manifest is the agent's"
    assert all(path.name.isprintable() for path in files)


def test_an_adapter_is_written_as_peft_reads_it(subject: Subject, whole: Run) -> None:
    output = whole.directory / "output"
    if not (output / "adapter_config.json").exists():
        pytest.skip("it publishes no adapter")
    config = json.loads((output / "adapter_config.json").read_bytes())
    assert config["peft_type"]
    assert config["base_model_name_or_path"] == str(subject.model)
    assert (output / "adapter_model.safetensors").stat().st_size > 0


def test_it_writes_into_its_own_directory_alone(subject: Subject, whole: Run) -> None:
    assert {path.name for path in whole.directory.iterdir()} - {"assignment.json"} <= WRITTEN
    place = whole.directory.parent
    assert {path.name for path in place.iterdir()} == {whole.directory.name, "home", "rows.jsonl"}
    assert [path for path in (place / "home").rglob("*") if path.is_file()] == []
    newer = [
        p.name for p in subject.model.iterdir() if p.stat().st_mtime > place.joinpath("rows.jsonl").stat().st_mtime
    ]
    assert newer == []


def test_it_talks_to_nobody_outside_this_host(whole: Run) -> None:
    assert whole.talked == set()


def test_its_command_line_names_the_attempt_and_none_of_the_spec(subject: Subject, whole: Run) -> None:
    assert str(whole.directory) in whole.argv
    assert not [part for part in whole.argv if str(subject.model) in part or "{" in part]


def test_no_process_of_it_outlives_it(whole: Run) -> None:
    assert whole.left() == []


@_of_trainers
def test_its_checkpoints_are_what_their_manifests_say(subject: Subject, whole: Run) -> None:
    if not subject.trains:
        pytest.skip("a stand-in has no state")
    assert whole.checkpoints, "no checkpoint was written, or none was kept"
    for path in whole.checkpoints:
        manifest = json.loads((path / "manifest.json").read_bytes())
        assert (manifest["format_version"], manifest["step"]) == (1, int(path.name))
        assert set(manifest["files"]) == {each.name for each in path.iterdir()} - {"manifest.json"}
        for name, facts in manifest["files"].items():
            content = (path / name).read_bytes()
            assert (len(content), sha256(content).hexdigest()) == (facts["size_bytes"], facts["sha256"])
            assert content[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"), f"{name} looks like a pickle"
    assert not list(whole.directory.glob("output/*checkpoint*"))


@_of_trainers
def test_its_checkpoints_are_told_and_those_that_are_gone_are_not_said_to_be_kept(subject: Subject, whole: Run) -> None:
    if not subject.trains:
        pytest.skip("a stand-in has no state")
    told = whole.said("checkpoint")
    assert [each["step"] for each in told] == sorted({each["step"] for each in told})
    kept = {int(path.name): path for path in whole.checkpoints}
    assert (told[-1]["step"], told[-1]["oldest_step"]) == (max(kept), min(kept))
    for report in told:
        if report["step"] in kept:
            path = kept[report["step"]]
            assert report["manifest_digest"] == sha256((path / "manifest.json").read_bytes()).hexdigest()
            assert report["size_bytes"] == sum(file.stat().st_size for file in path.iterdir())


def test_sigterm_ends_it_with_143_and_no_last_word(subject: Subject, runs: Any) -> None:
    run = runs(subject.for_ever)
    run.until_it_trains()
    run.process.send_signal(signal.SIGTERM)
    assert run.end(LAST_CHECKPOINT_SECONDS + GRACE_SECONDS) == TERMINATED_STATUS
    assert not {"failed", "finished"} & {report["kind"] for report in run.reports}
    assert run.left() == []


@_of_trainers
def test_at_sigterm_it_keeps_the_step_that_it_was_in(subject: Subject, runs: Any) -> None:
    if not subject.trains:
        pytest.skip("it writes no checkpoint but where it is told to")
    run = runs(subject.for_ever, RARELY)
    run.until_it_trains()
    run.process.send_signal(signal.SIGTERM)
    assert run.end(LAST_CHECKPOINT_SECONDS + GRACE_SECONDS) == TERMINATED_STATUS
    [kept] = run.checkpoints
    assert [told["step"] for told in run.said("checkpoint")] == [int(kept.name)]
    points = [step for told in run.said("metrics") for step in told["series"]["step"] if "loss" in told["series"]]
    assert points == list(range(1, int(kept.name) + 1)), "what is told of the steps until then is not told again"


@_of_trainers
def test_where_no_last_checkpoint_is_wanted_it_ends_within_the_grace(subject: Subject, runs: Any) -> None:
    run = runs(subject.for_ever, RARELY)
    run.until_it_trains()
    (run.directory / "stop.json").write_text('{"reason": "CANCELLED", "own": false, "checkpoint": false}')
    run.process.send_signal(signal.SIGTERM)
    assert run.end(GRACE_SECONDS) == TERMINATED_STATUS
    assert run.checkpoints == []


def test_sigterm_ends_it_also_while_it_is_still_beginning(subject: Subject, runs: Any) -> None:
    run = runs(subject.for_ever)
    run.until(lambda: run.lines, "its first line")
    run.process.send_signal(signal.SIGTERM)
    # Before its own handler is in place the signal ends it by itself, which a shell calls 143.
    assert run.end(GRACE_SECONDS) in (TERMINATED_STATUS, -signal.SIGTERM)
    assert run.left() == []


def test_its_deadline_ends_it_in_words(subject: Subject, runs: Any) -> None:
    run = runs(subject.for_ever, deadline_seconds=0.3)
    assert run.end() not in (0, TERMINATED_STATUS)
    last = run.reports[-1]
    assert (last["kind"], last["reason"]) == ("failed", "DEADLINE_EXCEEDED")
    assert "resources.max_duration_minutes" in last["message"]


@_of_trainers
@pytest.mark.parametrize("newest", ["whole", "broken", "torn"])
def test_killed_it_goes_on_from_the_newest_whole_checkpoint_to_the_same_bytes(
    subject: Subject, whole: Run, killed: Run, runs: Any, newest: str
) -> None:
    if not subject.trains:
        pytest.skip("a stand-in has no state")
    steps = [int(path.name) for path in killed.checkpoints]
    from_step = steps[-1 if newest == "whole" else -2]

    def give(directory: Path) -> None:
        given = shutil.copytree(killed.directory / "checkpoints", directory / "checkpoints")
        last = given / killed.checkpoints[-1].name
        if newest == "broken":
            weights = max(last.iterdir(), key=lambda path: path.stat().st_size)
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        elif newest == "torn":
            (last / "manifest.json").unlink()

    resumed = runs(number=2, before=give)
    assert resumed.end() == 0, resumed.log[-3000:]
    points = [step for report in resumed.said("metrics") for step in report["series"]["step"]]
    assert points[0] == from_step + 1, "it did not go on where it stopped"
    assert whole.result
    assert resumed.result == whole.result
    warned = [report["reason"] for report in resumed.said("warning")]
    assert ("CHECKPOINT_UNUSABLE" in warned) == (newest != "whole")


@_of_trainers
@pytest.mark.parametrize(
    ("changes", "how", "reason", "words"),
    [
        ({}, {"rows": [{"prompt": "a", "completion": "b"}, "no json"]}, "DATASET_INVALID", "row 2"),
        ({}, {"rows": [{"prompt": "a", "completion": 5}]}, "DATASET_INVALID", "row 1"),
        ({}, {"rows": []}, "DATASET_EMPTY", "datasets"),
        ({"tuning_parameters": {"learning_rate": 1e30}}, {}, "LOSS_NOT_FINITE", "tuning_parameters.learning_rate"),
        ({"customization": {"target_modules": ["no_such"]}}, {}, "TARGET_MODULES_NOT_FOUND", "no_such"),
        ({"customization": {"trainable_layers": ["layers.99"]}}, {}, "LAYERS_NOT_FOUND", "layers.99"),
    ],
    ids=["broken row", "wrong type", "no rows", "diverged", "no module", "no layer"],
)
def test_what_cannot_be_trained_is_said_by_reason_and_in_words(
    subject: Subject, runs: Any, changes: dict[str, Any], how: dict[str, Any], reason: str, words: str
) -> None:
    if not subject.trains:
        pytest.skip("a stand-in reads neither model nor rows")
    run = runs(changes, **how)
    assert run.end() not in (0, TERMINATED_STATUS)
    last = run.reports[-1]
    assert (last["kind"], last["reason"]) == ("failed", reason), last
    assert words in last["message"]
    assert not run.said("finished")
    assert run.left() == []


@_of_trainers
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_model_without_its_files_is_said_before_anything_is_computed(
    subject: Subject, runs: Any, tmp_path: Path, file: str
) -> None:
    if not subject.trains:
        pytest.skip("a stand-in reads no model")
    model = shutil.copytree(subject.model, tmp_path / "model")
    (model / file).unlink()
    run = runs({"base_model": {"model_name": str(model)}})
    assert run.end() not in (0, TERMINATED_STATUS)
    last = run.reports[-1]
    assert last["reason"] in {"MODEL_NOT_FOUND", "MODEL_FORMAT_UNSUPPORTED"}
    assert "base_model.model_name" in last["message"]
    assert not run.said("progress")
