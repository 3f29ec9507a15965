"""When two requests are the same job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.domain.spec import Rules, canonical, check, same, secret_macs
from tests.support.bad_requests import ABSENT, LOCAL, changed, seed_spec

KEY = b"k" * 32


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    first, second = check(a, rules=Rules()), check(b, rules=Rules())
    found = same(first.sent, secret_macs(first.secrets, KEY), second.sent, secret_macs(second.secrets, KEY))
    assert bool(found) == (
        canonical(first.sent) != canonical(second.sent)
        or secret_macs(first.secrets, KEY) != secret_macs(second.secrets, KEY)
    )
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tuning_parameters.learning_rate", 0.0002),
        ("tuning_parameters.num_epochs", 3.0),
        ("customization.rank", 16.0),
        ("customization.lora_alpha", 32.0),
        ("base_model.weights_url", ABSENT),
        ("labels", {}),
        ("placement", {"runner": None}),
        ("backend_options", {"x": None}),
    ],
)
def test_null_empty_and_absent_are_the_same_and_so_are_equal_numbers(path: str, value: Any):
    assert _differing(seed_spec(), changed(seed_spec(), path, value)) == []


def test_the_order_of_keys_does_not_matter():
    spec = seed_spec() | {"labels": {"a": "1", "b": "2"}}
    spec["customization"]["peft"]["config"] = {"task_type": "CAUSAL_LM", "peft_type": "LORA"}

    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(item) for key, item in reversed(value.items())}
        return [backwards(item) for item in value] if isinstance(value, list) else value

    assert list(backwards(spec)) != list(spec)
    assert _differing(spec, backwards(spec)) == []


@pytest.mark.parametrize(
    ("path", "value", "differing"),
    [
        ("customization.rank", 8, "customization.rank"),
        ("customization.target_modules", ["v_proj", "q_proj"], "customization.target_modules[0]"),
        ("customization.target_modules", ["q_proj"], "customization.target_modules"),
        ("datasets[].source", "s3://bucket/other.jsonl", "datasets[0].source"),
        ("base_model.auth_token", "hf_other", "base_model.auth_token"),
        ("base_model.auth_token", None, "base_model.auth_token"),
        ("callbacks.auth_header", "Bearer other", "callbacks.auth_header"),
        ("labels", {"team": "nlp"}, "labels"),
        ("priority", 50, "priority"),
        ("job_id", "other", "job_id"),
    ],
)
def test_a_difference_is_named_by_its_path_even_where_it_equals_the_default(path: str, value: Any, differing: str):
    found = _differing(seed_spec(), changed(seed_spec(), path, value))
    assert found[0] == differing
    assert found == [differing] or path == "customization.target_modules"


def test_a_whole_block_that_one_lacks_is_named_once():
    assert _differing(seed_spec(), changed(seed_spec(), "callbacks", None)) == ["callbacks", "callbacks.auth_header"]


def test_true_is_not_one_in_a_free_form_object():
    a = {"backend_options": {"steps": True}}
    assert same(a, {}, {"backend_options": {"steps": 1}}, {}) == ["backend_options.steps"]


def test_a_mac_depends_on_key_path_and_value_and_shows_nothing():
    macs = secret_macs({"base_model.auth_token": "hf_xxx"}, KEY)
    assert macs == secret_macs({"base_model.auth_token": "hf_xxx"}, KEY)
    assert macs != secret_macs({"base_model.auth_token": "hf_xxx"}, b"other" * 8)
    assert (
        macs["base_model.auth_token"] != secret_macs({"callbacks.auth_header": "hf_xxx"}, KEY)["callbacks.auth_header"]
    )
    assert len(macs["base_model.auth_token"]) == 64


def test_the_canonical_text_is_json_without_spaces():
    assert json.loads(canonical(check(LOCAL, rules=Rules()).sent)) == LOCAL
    assert " " not in canonical(check(LOCAL, rules=Rules()).sent)
