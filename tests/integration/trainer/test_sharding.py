"""A model that no rank holds whole trains as one rank would have trained it, whatever is trained in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.integration.trainer import forked_ranks
from tests.integration.trainer.attempts import Attempt
from tests.integration.trainer.forked_ranks import BACKWARD, Tight
from tests.support.eventually import eventually
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKS = 2
STARTED_SECONDS = 160.0
"""Ranks import torch and peft on a machine of two cores that runs other tests too."""
#: 25 rows make a last batch of one in every epoch: one rank has nothing to train on.
ROWS = [{"prompt": f"What is {n}? ", "completion": f"It is {n}." + " Yes, it is." * (n % 5)} for n in range(25)]

LORA = {"method": "lora", "rank": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"customization": LORA, "tuning_parameters": {"gradient_checkpointing": True}},
    "packed": {"customization": {**LORA, "precision": "bf16"}, "tuning_parameters": {"packing": True}},
    "pissa": {"customization": {**LORA, "peft": {"config": {"init_lora_weights": "pissa"}}}},
    "dora": {"customization": {"method": "dora", "rank": 4}},
    "adalora": {"customization": {"method": "adalora", "rank": 2}},
    "vera": {"customization": {"method": "vera", "rank": 4}},
    "prefix_tuning": {"customization": {"method": "prefix_tuning"}},
    "layernorm": {"customization": {"method": "layernorm"}},
    "modules_to_save": {"customization": {**LORA, "peft": {"config": {"modules_to_save": ["lm_head"]}}}},
    "qlora": {"customization": {**LORA, "method": "qlora", "precision": "bf16"}, "export": {"merged": True}},
    "full": {"customization": {"method": "full"}, "tuning_parameters": {"gradient_checkpointing": True}},
    "full of one block": {"customization": {"method": "full", "trainable_layers": ["layers.1"]}},
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Attempt]:
    def attempt(ranks: int, *, model: Path = tiny_model, **changes: Any) -> Attempt:
        made = Attempt(tmp_path_factory.mktemp("attempt"), model)
        evaluated = made.dataset([{"text": f"Number {n} is a number."} for n in range(5)], "eval.jsonl")
        made.assign(
            rows=ROWS,
            datasets=[{"source": (made.directory / "rows.jsonl").as_uri()}, {"source": evaluated, "split": "eval"}],
        )
        path = made.directory / "assignment.json"
        document = json.loads(path.read_text())
        document["world_size"] = ranks
        spec = document["spec"]
        spec["customization"] = {"precision": "fp32", **changes.pop("customization", LORA)}
        spec["tuning_parameters"] |= {
            "sharding": "full" if ranks > 1 else "none",
            **changes.pop("tuning_parameters", {}),
        }
        document |= {name: str(changes.pop(name)) for name in ("resume_from",) if name in changes}
        path.write_text(json.dumps(document | {"spec": spec | changes}))
        return made

    return attempt


def _begun(attempt: Attempt) -> bool:
    path = attempt.directory / "reports.jsonl"
    return path.exists() and '"progress"' in path.read_text()


def losses(attempt: Attempt) -> list[float]:
    told = attempt.provenance["losses"]
    return [*told["steps"], told["eval_before"], told["eval_after"]]


def weights(attempt: Attempt) -> dict[str, Any]:
    from safetensors.torch import load_file

    (path,) = attempt.output.glob("*model.safetensors")
    return load_file(path)


def assert_alike(attempt: Attempt, other: Attempt, *, within: float) -> None:
    assert losses(attempt) == pytest.approx(losses(other), rel=within)
    found, expected = weights(attempt), weights(other)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor - expected[name]).norm() <= 1e2 * within * expected[name].norm(), name


@pytest.mark.parametrize("name", METHODS)
def test_it_makes_the_steps_of_one_rank_that_has_the_whole_model(name: str, make: Callable[..., Attempt]):
    sharded, alone = make(RANKS, **METHODS[name]), make(1, **METHODS[name])
    found = forked_ranks.train(sharded.directory, ranks=RANKS)
    assert alone.run() == 0
    assert_alike(sharded, alone, within=1e-3 if name in {"packed", "qlora"} else 1e-5)
    for each in found:
        assert each["root"] == each["wrapped"][0]
        assert [name for name in each["wrapped"] if name.endswith("DecoderLayer")] == ["FSDPLlamaDecoderLayer"] * 2
        if name != "modules_to_save":  # what is trained is whole on every rank, and here it is a third of the model
            assert each["held_bytes"] < 0.6 * each["whole_bytes"]
    told = sharded.provenance
    assert told["training"]["sharding"] == {
        "kind": "full", "units": len(found[0]["wrapped"]), "parameter_bytes": found[0]["whole_bytes"]
    }  # fmt: skip
    assert [rank["parameter_bytes"] for rank in told["ranks"]] == [each["held_bytes"] for each in found]
    assert alone.provenance["training"]["sharding"] is None


def test_what_is_tied_stays_tied(make: Callable[..., Attempt], tmp_path: Path):
    model = write_tiny_model(tmp_path / "tied", tied=True)
    sharded, alone = (make(ranks, model=model, customization={"method": "full"}) for ranks in (RANKS, 1))
    found = forked_ranks.train(sharded.directory, ranks=RANKS)
    assert alone.run() == 0
    assert_alike(sharded, alone, within=1e-5)
    assert all(each["held_bytes"] < 0.6 * each["whole_bytes"] for each in found)


def test_the_output_opens_as_any_adapter_does(make: Callable[..., Attempt], tokenizer: Any):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    sharded = make(RANKS)
    forked_ranks.train(sharded.directory, ranks=RANKS)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sharded.model), sharded.output)
    ids = tokenizer("What is 7? It is 7.", return_tensors="pt").input_ids
    with model.disable_adapter():
        before = model(input_ids=ids, labels=ids).loss
    assert model(input_ids=ids, labels=ids).loss < before


@pytest.mark.parametrize(("method", "tight"), [
    ("full", Tight(rank=1, tokens=60)),
    ("lora", Tight(rank=0, tokens=60, module="LlamaMLP")),
    ("lora", Tight(rank=1, tokens=60, module="LlamaMLP", way=BACKWARD)),
    ("full", Tight(rank=1, tokens=60, module="LlamaMLP", way=BACKWARD)),
], ids=["at the beginning", "in its midst", "on the way back", "on the way back, with gradients"])  # fmt: skip
def test_a_rank_whose_device_is_full_tries_again_with_the_others(
    method: str, tight: Tight, make: Callable[..., Attempt]
):
    chosen = {"customization": METHODS[method]["customization"]}
    sharded, alone = make(RANKS, **chosen), make(1, **chosen)
    found = forked_ranks.train(sharded.directory, ranks=RANKS, tight=tight)
    assert found[tight.rank]["refusals"] > 0
    assert found[1 - tight.rank]["refusals"] == 0
    assert alone.run() == 0
    assert_alike(sharded, alone, within=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_one_goes_on_to_the_same_bytes(method: str, make: Callable[..., Attempt]):
    dropped = {"lora_dropout": 0.2} if method == "lora" else {}
    chosen: dict[str, Any] = {
        "customization": {**METHODS[method]["customization"], **dropped},
        "tuning_parameters": {"checkpoint_steps": 3},
    }
    whole, killed = make(RANKS, **chosen), make(RANKS, **chosen)
    forked_ranks.train(whole.directory, ranks=RANKS)
    forked_ranks.train(killed.directory, ranks=RANKS, failpoint="trainer.step-5")
    resumed = make(RANKS, **chosen, resume_from=killed.directory / "checkpoints")
    forked_ranks.train(resumed.directory, ranks=RANKS)
    assert resumed.provenance["training"]["resumed_from"] == 3
    assert resumed.provenance["losses"] == whole.provenance["losses"]
    (path,) = whole.output.glob("*model.safetensors")
    assert (resumed.output / path.name).read_bytes() == path.read_bytes()


def test_it_is_merged_as_any_other(make: Callable[..., Attempt]):
    sharded = make(RANKS, export={"merged": True})
    forked_ranks.train(sharded.directory, ranks=RANKS)
    told = sharded.provenance["exports"]["merged"]
    assert told["logit_difference"] < 1e-5 < told["adapter_effect"]


async def test_a_rank_s_death_ends_the_attempt_with_its_last_words(make: Callable[..., Attempt]):
    attempt = make(RANKS, tuning_parameters={"max_steps": 1_000_000})
    leader = forked_ranks.lead(attempt.directory)
    try:
        await eventually(lambda: _begun(attempt), deadline_seconds=STARTED_SECONDS)
        _, victim = sorted(psutil.Process(leader.pid).children(), key=lambda child: child.pid)
        victim.kill()
        leader.join(10)
        assert leader.exitcode == 1
    finally:
        leader.kill()
        leader.join()
    failed = attempt.reports[-1]
    assert (failed["kind"], failed["reason"]) == ("failed", "TRAINER_CRASHED")
    assert failed["message"].startswith("rank 1 was ended by SIGKILL: ")
    assert not attempt.output.exists()
