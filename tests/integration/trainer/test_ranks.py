"""Several ranks: they train what one would, and none is left behind, whatever ends the attempt."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from agent.checkpoint import read_state, verified
from tests.integration.trainer import forked_ranks
from tests.integration.trainer.attempts import Attempt
from tests.integration.trainer.process import starting
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.trainer.process import Process

TRAINER = "agent.trainer"
RANKS = 4
#: 26 rows make a last batch of two in every epoch: fewer than there are ranks.
ROWS = [{"prompt": f"What is {n}? ", "completion": f"It is {n}." + " Yes, it is." * (n % 5)} for n in range(26)]
STARTED_SECONDS = 160.0
"""Four ranks import torch and peft on a machine of two cores that runs other tests too."""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Attempt]:
    """A training by four ranks, with an eval split and activations recomputed, that has finished."""
    attempt = Attempt(tmp_path_factory.mktemp("four"), tiny_model)
    assign(attempt)
    attempt.set_ranks(RANKS)
    for start in starting():
        process: Process = start(TRAINER, attempt.directory)
        assert process.wait(STARTED_SECONDS) == 0, (process.lines[-1], process.log)
        yield attempt


def assign(attempt: Attempt) -> None:
    evaluated = attempt.dataset([{"text": f"Number {n} is a number."} for n in range(5)], "eval.jsonl")
    attempt.assign(
        rows=ROWS,
        datasets=[{"source": (attempt.directory / "rows.jsonl").as_uri()}, {"source": evaluated, "split": "eval"}],
        tuning_parameters={"gradient_checkpointing": True, "warmup_ratio": 0.25},
    )


def test_four_ranks_make_the_steps_of_one(four: Attempt, attempt: Attempt):
    from safetensors.torch import load_file

    assign(attempt)
    assert attempt.run() == 0
    together, alone = four.provenance["losses"], attempt.provenance["losses"]
    assert len(alone["steps"]) == 8
    assert together["steps"] == pytest.approx(alone["steps"], rel=1e-5)
    assert together["eval_before"] == pytest.approx(alone["eval_before"], rel=1e-5)
    assert together["eval_after"] == pytest.approx(alone["eval_after"], rel=1e-5)
    weights, expected = (load_file(of.output / "adapter_model.safetensors") for of in (four, attempt))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert (tensor - expected[name]).norm() <= 1e-3 * expected[name].norm()


def test_the_ranks_samples_are_disjoint_and_together_the_dataset(four: Attempt):
    ranks = four.provenance["ranks"]
    assert [rank["rank"] for rank in ranks] == list(range(RANKS))
    seen = [number for rank in ranks for number in rank["first_epoch"]["numbers"]]
    assert sorted(seen) == list(range(len(ROWS)))
    assert {rank["first_epoch"]["examples"] for rank in ranks} <= {6, 7}


def test_all_ranks_end_with_the_same_adapter(four: Attempt):
    (digest,) = {rank["adapter_sha256"] for rank in four.provenance["ranks"]}
    assert len(digest) == 64


def test_the_provenance_says_how_it_was_trained(four: Attempt):
    training = four.provenance["training"]
    said = {name: training[name] for name in ("world_size", "effective_batch_size", "warmup_steps", "precision")}
    assert said == {"world_size": RANKS, "effective_batch_size": 8, "warmup_steps": 2, "precision": "fp32"}
    assert training["peak_learning_rate"] == 1e-2
    assert training["tokens"] == 2 * four.provenance["datasets"]["splits"]["train"]["tokens"]
    assert training["padded_tokens"] >= training["tokens"]


def test_only_rank_0_reports_and_in_order(four: Attempt):
    kinds = [report["kind"] for report in four.reports]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    assert kinds.count("started") == kinds.count("finished") == 1
    phases = ["FETCHING_MODEL", "PREPARING_DATA", "PREPARING_DATA", "EVALUATING", "TRAINING", "EVALUATING"]
    assert [report["phase"] for report in four.said("phase")] == phases
    losses = [report["series"] for report in four.said("metrics") if "loss" in report["series"]]
    steps = [step for series in losses for step in series["step"]]
    assert steps == list(range(1, 9))
    for report in four.said("metrics"):
        assert {len(values) for values in report["series"].values()} == {len(report["series"]["step"])}


def test_each_rank_has_a_log_of_its_own(four: Attempt):
    logs = sorted((four.directory / "logs").iterdir())
    assert [path.name for path in logs] == [f"rank-{number}.log" for number in range(RANKS)]
    for number, path in enumerate(logs):
        assert f"rank={number}/{RANKS} " in path.read_text()


def test_nothing_is_left_beside_the_output(four: Attempt):
    left = {path.name for path in four.directory.iterdir()} - {"rows.jsonl", "eval.jsonl"}
    assert left == {"assignment.json", "audit.json", "heartbeat", "logs", "output", "reports.jsonl", "tensorboard"}


def test_ranks_with_a_quantized_base_and_dropout_of_their_own_agree_on_the_adapter(attempt: Attempt, start: Any):
    attempt.assign(
        rows=ROWS,
        customization={"method": "qlora", "lora_dropout": 0.3, "precision": "bf16", "target_modules": ["all-linear"]},
        tuning_parameters={"gradient_checkpointing": True},
    )
    attempt.set_ranks(2)
    process = start(TRAINER, attempt.directory)
    assert process.wait(STARTED_SECONDS) == 0, (process.lines[-1], process.log)
    facts = attempt.provenance
    assert len({rank["adapter_sha256"] for rank in facts["ranks"]}) == 1
    assert facts["base_model"]["quantization"]["modules"] == 2 * 7
    assert facts["losses"]["last"] < facts["losses"]["first"]


def test_one_rank_that_runs_out_of_memory_halves_its_passes_and_all_make_the_steps_of_one(
    attempt: Attempt, tmp_path_factory: pytest.TempPathFactory
):
    tight = Attempt(tmp_path_factory.mktemp("tight"), attempt.model)
    assign(tight)
    tight.set_ranks(2)
    found = forked_ranks.train(tight.directory, ranks=2, tight=forked_ranks.Tight(rank=1, tokens=60))
    assert found[0]["refusals"] == 0
    assert found[1]["refusals"] > 0
    told = [(each["reason"], each["message"].partition(",")[0]) for each in tight.said("warning")]
    assert told[0] == ("MICRO_BATCH_HALVED", "at step 1 another device's passes did not fit into its memory")
    assert len(told) < found[1]["refusals"] + 1
    assign(attempt)
    assert attempt.run() == 0
    steps, alone = tight.provenance["losses"]["steps"], attempt.provenance["losses"]["steps"]
    assert steps == pytest.approx(alone, rel=1e-4)
    assert len({rank["adapter_sha256"] for rank in tight.provenance["ranks"]}) == 1


async def begun(attempt: Attempt, start: Any, ranks: int, **document: Any) -> tuple[Process, dict[int, psutil.Process]]:
    """An endless training that is making its steps."""
    attempt.assign(tuning_parameters={"max_steps": 1_000_000})
    attempt.set_ranks(ranks)
    path = attempt.directory / "assignment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **document}))
    process = start(TRAINER, attempt.directory)
    await eventually(lambda: "progress" in process.kinds(), deadline_seconds=STARTED_SECONDS)
    members = process.ranks()
    assert sorted(members) == list(range(ranks))
    return process, members


def assert_gone(members: dict[int, psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(members.values(), timeout=60)
    assert (len(gone), alive) == (len(members), [])


async def test_one_rank_s_death_ends_the_attempt_at_once_and_names_it(attempt: Attempt, start: Any):
    process, members = await begun(attempt, start, 4)
    members[2].kill()
    assert process.wait(10) == 1
    assert_gone(members)
    failed = attempt.reports[-1]
    assert (failed["kind"], failed["reason"]) == ("failed", "TRAINER_CRASHED")
    assert failed["message"].startswith("rank 2 was ended by SIGKILL: ")
    assert "its log's last lines:\n" in failed["message"]
    assert "rank=2/4 " in failed["message"]
    assert process.kinds().count("failed") == 1
    assert not attempt.output.exists()


async def test_at_sigterm_all_ranks_end_after_the_same_step_with_a_checkpoint_and_no_last_word(
    attempt: Attempt, start: Any
):
    process, members = await begun(attempt, start, 2)
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert_gone(members)
    assert not {"failed", "finished"} & set(process.kinds())
    [place] = (attempt.directory / "checkpoints").iterdir()
    state = read_state(verified(place))
    assert len(state["ranks"]) == 2
    points = [step for told in attempt.said("metrics") for step in told["series"]["step"]]
    assert points == list(range(1, len(state["losses"]) + 1))


async def test_ranks_end_with_their_leader_however_it_dies(attempt: Attempt, start: Any):
    process, members = await begun(attempt, start, 2)
    process.popen.kill()
    assert process.wait() == -signal.SIGKILL
    assert_gone(members)


def test_the_deadline_ends_all_ranks_while_they_still_load(attempt: Attempt, start: Any):
    attempt.assign()
    attempt.set_ranks(2)
    path = attempt.directory / "assignment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "deadline_seconds": 0.5}))
    process = start(TRAINER, attempt.directory)
    assert process.wait(30) == 1
    assert (attempt.reports[-1]["kind"], attempt.reports[-1]["reason"]) == ("failed", "DEADLINE_EXCEEDED")


def test_what_is_wrong_with_the_request_is_said_once_as_one_rank_would_say_it(attempt: Attempt, start: Any):
    attempt.assign(rows=['{"text": "a"}'] * 6 + ['{"text": 5}'])
    attempt.set_ranks(2)
    process = start(TRAINER, attempt.directory)
    assert process.wait(STARTED_SECONDS) == 1
    (failed,) = attempt.said("failed")
    assert failed["reason"] == "DATASET_INVALID"
    assert failed["message"].startswith("datasets[0].source: row 7 of ")
