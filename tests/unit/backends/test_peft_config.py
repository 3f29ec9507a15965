"""`customization.peft.config` as it is judged at submit; tests/support/bad_requests.py has what is refused, by reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.spec import Rules, check
from tests.support.bad_requests import LOCAL, changed
from trainplane.backends.peft_config import further, problems
from trainplane.backends.peft_methods import METHODS, PLACES

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
    {"init_lora_weights": "eva"},
    {"init_lora_weights": "eva", "eva_config": {"rho": 1, "tau": 0.9, "use_label_mask": False, "whiten": True}},
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
        ({"peft": {"config": {"lora_bias": True, "init_lora_weights": "eva"}}}, "lora_bias"),
        ({"peft": {"config": {"eva_config": {}}}}, "eva_config"),
        ({"peft": {"config": {"init_lora_weights": "eva", "rank_pattern": {"q_proj": 4}}}}, "rank_pattern"),
        ({"peft": {"config": {"lora_bias": True, "init_lora_weights": "gaussian"}}}, "lora_bias"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_together_is_told_once(customization: dict[str, Any], field: str):
    assert [(found[0], found[1]) for found in problems(customization)] == [
        (f"customization.peft.config.{field}", "CONTRADICTION")
    ]


@pytest.mark.parametrize(
    ("config", "field", "reason"),
    [
        (5, "", "WRONG_TYPE"),
        ({"rho": 0.5}, ".rho", "OUT_OF_RANGE"),
        ({"rho": 17}, ".rho", "OUT_OF_RANGE"),
        ({"rho": True}, ".rho", "WRONG_TYPE"),
        ({"tau": 1.1}, ".tau", "OUT_OF_RANGE"),
        ({"whiten": 1}, ".whiten", "WRONG_TYPE"),
        ({"label_mask_value": 5}, ".label_mask_value", "UNKNOWN_FIELD"),
        ({"roh": 2}, ".roh", "UNKNOWN_FIELD"),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_eva_config_is_told_by_its_field(config: Any, field: str, reason: str):
    ((told, said, _),) = problems({"peft": {"config": {"init_lora_weights": "eva", "eva_config": config}}})
    assert (told, said) == (f"customization.peft.config.eva_config{field}", reason)


OF_METHODS = [
    ("dora", {"use_dora": True, "use_rslora": True, "peft_type": "LORA"}),
    ("adalora", {"init_r": 24, "tinit": 0, "tfinal": 3, "deltaT": 5, "beta1": 0.9, "beta2": 0.5, "orth_reg_weight": 0}),
    ("adalora", {"target_r": 16, "r": 16, "layers_to_transform": [0]}),
    ("ia3", {"feedforward_modules": ["down_proj"], "exclude_modules": "x"}),
    ("vera", {"d_initial": 0.2, "projection_prng_key": 3}),
    ("oft", {"oft_block_size": 64, "coft": True, "eps": 1e-4, "block_share": False, "module_dropout": 0.1}),
    ("oft", {"r": 8, "num_cayley_neumann_terms": 7, "use_cayley_neumann": True}),
    ("boft", {"boft_block_num": 4, "boft_dropout": 0.5}),
    ("prompt_tuning", {"num_virtual_tokens": 8, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Be kind."}),
    ("prefix_tuning", {"prefix_projection": True, "encoder_hidden_size": 64, "init_weights": "zero"}),
    ("p_tuning", {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 1, "encoder_dropout": 0.1}),
    ("layernorm", {"exclude_modules": ["norm"]}),
]


@pytest.mark.parametrize(("method", "config"), OF_METHODS, ids=str)
def test_what_a_method_obeys_is_taken(method: str, config: dict[str, Any]):
    assert problems({"method": method, "peft": {"config": config}}) == []


REFUSED = [
    ("dora", {"lora_bias": True}, "NOT_YET_SUPPORTED"),
    ("dora", {"init_lora_weights": "pissa"}, "CONTRADICTION"),
    ("adalora", {"total_step": 100}, "NOT_ALLOWED"),
    ("adalora", {"rank_pattern": {}}, "NOT_ALLOWED"),
    ("adalora", {"use_rslora": True}, "NOT_YET_SUPPORTED"),
    ("adalora", {"beta1": 1}, "OUT_OF_RANGE"),
    ("adalora", {"beta2": 0}, "OUT_OF_RANGE"),
    ("adalora", {"deltaT": 0}, "OUT_OF_RANGE"),
    ("adalora", {"tinit": -1}, "OUT_OF_RANGE"),
    ("adalora", {"tinit": 1.5}, "WRONG_TYPE"),
    ("adalora", {"init_r": 8}, "CONTRADICTION"),
    ("ia3", {"lora_alpha": 3}, "UNKNOWN_FIELD"),
    ("ia3", {"r": 8}, "UNKNOWN_FIELD"),
    ("ia3", {"feedforward_modules": [1]}, "WRONG_TYPE"),
    ("vera", {"save_projection": False}, "NOT_ALLOWED"),
    ("vera", {"projection_prng_key": -1}, "OUT_OF_RANGE"),
    ("vera", {"bias": "all"}, "NOT_YET_SUPPORTED"),
    ("oft", {"eps": 0}, "OUT_OF_RANGE"),
    ("oft", {"oft_block_size": 4, "r": 2}, "CONTRADICTION"),
    ("oft", {"oft_block_size": 0}, "CONTRADICTION"),
    ("boft", {"boft_n_butterfly_factor": 2}, "NOT_YET_SUPPORTED"),
    ("boft", {"boft_block_size": 4, "boft_block_num": 2}, "CONTRADICTION"),
    ("prompt_tuning", {"num_virtual_tokens": 0}, "OUT_OF_RANGE"),
    ("prompt_tuning", {"tokenizer_name_or_path": "/etc"}, "NOT_ALLOWED"),
    ("prompt_tuning", {"tokenizer_kwargs": {"trust_remote_code": True}}, "NOT_ALLOWED"),
    ("prompt_tuning", {"prompt_tuning_init": "LOUD"}, "UNKNOWN_VALUE"),
    ("prompt_tuning", {"prompt_tuning_init": "TEXT"}, "CONTRADICTION"),
    ("prompt_tuning", {"prompt_tuning_init_text": "x"}, "CONTRADICTION"),
    ("prompt_tuning", {"num_layers": 3}, "NOT_ALLOWED"),
    ("prefix_tuning", {"encoder_hidden_size": 8}, "CONTRADICTION"),
    ("prefix_tuning", {"init_weights": "one"}, "UNKNOWN_VALUE"),
    ("p_tuning", {"encoder_reparameterization_type": "GRU"}, "UNKNOWN_VALUE"),
    ("p_tuning", {"encoder_dropout": 1}, "OUT_OF_RANGE"),
    ("layernorm", {"modules_to_save": ["lm_head"]}, "NOT_YET_SUPPORTED"),
]


@pytest.mark.parametrize(("method", "config", "reason"), REFUSED, ids=str)
def test_what_a_method_does_not_obey_is_told_once(method: str, config: dict[str, Any], reason: str):
    ((field, told, said),) = problems({"method": method, "rank": 16, "peft": {"config": config}})
    assert field.rpartition(".")[2] in {*config, "prompt_tuning_init_text"}
    assert (told, bool(said)) == (reason, True)


def test_every_field_named_here_is_one_of_peft_s():
    for method in METHODS.values():
        assert set(method.fields) >= method.accepted | set(method.own)
        assert not method.accepted & set(method.own)
        assert set(method.own.values()) <= {*method.places, "method"}
        assert bool(method.lacks) == (set(PLACES) > method.places)


def test_every_method_and_every_field_that_is_taken_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    fields = {name for method in METHODS.values() for name in method.accepted}
    assert [name for name in sorted({*fields, *METHODS}) if f"`{name}`" not in page] == []


def test_a_lora_may_be_called_so_by_its_peft_type_also_in_a_quantized_base():
    spec = changed(LOCAL, "customization.peft.config", {"peft_type": "LORA", "task_type": "CAUSAL_LM"})
    for method in ("lora", "qlora"):
        check(changed(spec, "customization.method", method), rules=Rules())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


ALL_FIELDS = sorted({name for method in METHODS.values() for name in method.fields})


@given(
    st.sampled_from(sorted(METHODS)),
    st.dictionaries(st.sampled_from(ALL_FIELDS) | st.text(max_size=8), JSON, max_size=4),
)
def test_it_never_raises_and_what_it_takes_is_of_peft_s_types(method: str, config: dict[str, Any]):
    customization = {"method": method, "peft": {"config": config}}
    found = problems(customization)
    assert all(field.startswith("customization.peft.config.") and said for field, _, said in found)
    if not found:
        assert set(further(customization)) <= METHODS[method].accepted
