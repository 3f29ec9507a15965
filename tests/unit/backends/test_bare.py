"""What backend `bare` refuses, at submit and without torch, and when it steps how far."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trainplane_bare.engine import Bare
from trainplane_bare.plan import Plan

GOLDEN = Path(__file__).parents[2] / "golden"
ROOT = Path(__file__).parents[3]
GOOD = {
    "backend": "bare",
    "customization": {"method": "lora", "rank": 8, "precision": "fp32", "peft": {"use": True, "config": {"r": 8}}},
    "resources": {"gpus": 1},
    "datasets": [{"source": "s3://bucket/rows.jsonl", "split": "train", "columns": {"prompt": "q"}}],
    "tuning_parameters": {"batch_size": 8, "packing": False, "optimizer": "adamw", "gradient_checkpointing": True},
    "backend_options": {"micro_batch_size": 4},
    "export": {"merged": False, "gguf": False},
}


def refused(block, value):
    return [(field, reason) for field, reason, _ in Bare().validate({**GOOD, block: value})]


def test_what_it_does_is_accepted():
    assert Bare().validate(GOOD) == []


@pytest.mark.parametrize(
    ("block", "value", "field"),
    [
        ("customization", {"method": "dora"}, "customization.method"),
        ("customization", {"method": "lora", "precision": "fp16"}, "customization.precision"),
        ("customization", {"method": "lora", "qlora": {"use_double_quant": True}}, "customization.qlora"),
        ("customization", {"peft": {"config": {"use_rslora": True}}}, "customization.peft.config.use_rslora"),
        ("resources", {"gpus": 2}, "resources.gpus"),
        ("datasets", [{"source": "file:///rows.csv"}], "datasets[0].format"),
        ("datasets", [{"source": "file:///rows", "format": "text"}], "datasets[0].format"),
        ("datasets", [{"source": "file:///r.jsonl", "split": "eval"}], "datasets[0].split"),
        ("datasets", [{"source": "file:///r.jsonl", "weight": 2.0}], "datasets[0].weight"),
        ("datasets", [{"source": "file:///r.jsonl", "columns": {"messages": "m"}}], "datasets[0].columns.messages"),
        ("tuning_parameters", {"packing": True}, "tuning_parameters.packing"),
        ("tuning_parameters", {"truncation": "drop"}, "tuning_parameters.truncation"),
        ("tuning_parameters", {"eval_fraction": 0.1}, "tuning_parameters.eval_fraction"),
        ("tuning_parameters", {"neftune_noise_alpha": 5}, "tuning_parameters.neftune_noise_alpha"),
        ("tuning_parameters", {"a_field_of_next_year": 1}, "tuning_parameters.a_field_of_next_year"),
        ("tuning_parameters", {"optimizer": "lion"}, "tuning_parameters.optimizer"),
        ("export", {"merged": True}, "export.merged"),
        ("export", {"gguf": True}, "export.gguf"),
        ("export", {"push_to_hub": "owner/name"}, "export.push_to_hub"),
    ],
)
def test_what_it_would_not_obey_is_refused_naming_the_field(block, value, field):
    assert refused(block, value) == [(field, "NOT_SUPPORTED")]


def test_each_refusal_says_what_to_do():
    wrong = {
        "customization": {"method": "vera"},
        "resources": {"gpus": 8},
        "tuning_parameters": {"packing": True},
        "export": {"push_to_hub": "owner/name"},
    }
    assert all("backend peft" in description for _, _, description in Bare().validate(GOOD | wrong))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"micro_batch": 1}, "UNKNOWN_FIELD"),
        ({"micro_batch_size": True}, "WRONG_TYPE"),
        ({"micro_batch_size": 0}, "OUT_OF_RANGE"),
    ],
)
def test_its_options_are_judged(options, reason):
    assert [found[1] for found in refused("backend_options", options)] == [reason]


def test_the_judge_imports_the_standard_library_alone():
    program = (
        "import sys; before = set(sys.modules); import trainplane_bare.engine; "
        "print(*{n.partition('.')[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "backends/bare", capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["trainplane_bare"]


def plan(**tuning):
    values = dict.fromkeys(Plan.__dataclass_fields__) | {"tuning": tuning}
    return Plan(**values)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_learning_rates_are_those_of_every_engine(kind, warmup):
    made = plan(learning_rate=1e-3, lr_scheduler=kind, warmup_ratio=warmup, max_steps=20)
    golden = json.loads((GOLDEN / "trainer" / "learning_rates.json").read_text())[f"{kind}-{warmup}"]
    assert [made.rate(step, 20) for step in range(made.total_steps(100))] == pytest.approx(golden, rel=1e-9)


def test_epochs_may_be_fractions():
    cases = {(10, 4, 1): 3, (10, 4, 2): 6, (10, 4, 0.5): 2, (30, 1, 0.1): 3, (10, 4, 0.0001): 1}
    assert {case: plan(batch_size=case[1], num_epochs=case[2]).total_steps(case[0]) for case in cases} == cases
