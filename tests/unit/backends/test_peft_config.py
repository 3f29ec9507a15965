"""`customization.peft.config` as it is judged at submit; tests/support/bad_requests.py has what is refused, by reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.spec import Rules, check
from controlplane.domain.spec.fields import PEFT_OWN_PLACES
from tests.support.bad_requests import LOCAL, changed
from trainplane.backends.peft_config import ACCEPTED, OWN_PLACES, further, problems
from trainplane.backends.peft_fields import LORA

TAKEN = [
    {},
    {"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 1.5, "target_modules": ["x"], "peft_type": "LORA"},
    {"use_rslora": True, "use_dora": False, "lora_bias": False, "fan_in_fan_out": True},
    {"bias": "none", "modules_to_save": []},
    {"init_lora_weights": True},
    {"init_lora_weights": False},
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": "orthogonal"},
    {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 4}},
    {"init_lora_weights": "olora", "use_rslora": True},
    {"rank_pattern": {r"layers\.[01]\..*": 1024}, "alpha_pattern": {"v_proj": 0.5}},
    {"layers_to_transform": 0},
    {"layers_to_transform": [0, 31]},
    {"exclude_modules": ["lm_head"]},
    {"exclude_modules": r".*\.0\..*"},
]


@pytest.mark.parametrize("config", TAKEN, ids=str)
def test_what_the_trainer_obeys_is_taken(config: dict[str, Any]):
    assert problems({"method": "lora", "peft": {"config": config}}) == []


@pytest.mark.parametrize("config", [{"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_weights_of_the_base_are_trained_in_fp32_only(config: dict[str, Any]):
    assert problems({"method": "lora", "precision": "fp32", "peft": {"config": config}}) == []
    ((field, reason, said),) = problems({"method": "lora", "precision": "bf16", "peft": {"config": config}})
    assert (field, reason) == (f"customization.peft.config.{next(iter(config))}", "CONTRADICTION")
    assert "`fp32`" in said


@pytest.mark.parametrize(
    ("customization", "field"),
    [
        ({"method": "qlora", "peft": {"config": {"init_lora_weights": "pissa"}}}, "init_lora_weights"),
        ({"trainable_layers": ["layers.0"], "peft": {"config": {"layers_to_transform": [0]}}}, "layers_to_transform"),
        ({"peft": {"config": {"init_lora_weights": "pissa", "use_dora": True}}}, "use_dora"),
        ({"peft": {"config": {"init_lora_weights": "olora", "use_rslora": True, "rank_pattern": {"q": 2}}}}, "use_rslora"),
        ({"peft": {"config": {"lora_bias": True, "use_dora": True}}}, "lora_bias"),
        ({"peft": {"config": {"lora_bias": True, "init_lora_weights": "gaussian"}}}, "lora_bias"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_together_is_told_once(customization: dict[str, Any], field: str):
    assert [(found[0], found[1]) for found in problems(customization)] == [
        (f"customization.peft.config.{field}", "CONTRADICTION")
    ]


def test_every_field_named_here_is_one_of_peft_s():
    assert set(LORA) >= ACCEPTED | OWN_PLACES
    assert not ACCEPTED & OWN_PLACES


def test_every_field_that_is_taken_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    assert [name for name in sorted(ACCEPTED) if f"`{name}`" not in page] == []


def test_the_fields_with_a_place_of_their_own_are_those_that_the_spec_s_judge_compares():
    assert {*PEFT_OWN_PLACES, "task_type"} == OWN_PLACES


def test_a_lora_may_be_called_so_by_its_peft_type_also_in_a_quantized_base():
    spec = changed(LOCAL, "customization.peft.config", {"peft_type": "LORA", "task_type": "CAUSAL_LM"})
    for method in ("lora", "qlora"):
        check(changed(spec, "customization.method", method), rules=Rules())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(LORA)) | st.text(max_size=8), JSON, max_size=4))
def test_it_never_raises_and_what_it_takes_is_of_peft_s_types(config: dict[str, Any]):
    customization = {"method": "lora", "peft": {"config": config}}
    found = problems(customization)
    assert all(field.startswith("customization.peft.config.") and said for field, _, said in found)
    if not found:
        assert set(further(customization)) <= ACCEPTED
