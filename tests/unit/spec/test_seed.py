"""The users' own request, byte for byte, and the goldens that others rely on.

`TRAINPLANE_WRITE_GOLDENS=1 pytest tests/unit/spec` writes them anew; the diff is then for review.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import Rules, canonical, check, json_schema, not_yet_runnable, parse, reference
from tests.support.bad_requests import LOCAL, SEED, changed

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "spec"


def _golden(path: Path, text: str) -> None:
    if os.environ.get("TRAINPLANE_WRITE_GOLDENS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def test_the_seed_is_taken_with_exactly_one_warning():
    checked = check(parse(SEED), rules=Rules())
    ((field, reason),) = [(warning.field, warning.reason) for warning in checked.warnings]
    assert (field, reason) == ("customization.qlora", "NO_EFFECT")
    assert checked.job_id == "unique-train-id"
    assert checked.secrets == {"base_model.auth_token": "hf_xxx", "callbacks.auth_header": "Bearer mytoken"}
    need = checked.requirement
    assert (need.gpus, need.gpu_type, need.cpus, need.memory_bytes) == (4, "A100", 16, 128 * 2**30)
    assert checked.max_duration_seconds == 43200


def test_the_seed_s_secrets_are_in_nothing_that_is_kept_or_shown():
    checked = check(parse(SEED), rules=Rules())
    for text in (canonical(checked.sent), json.dumps(checked.effective), repr(checked), str(checked.warnings)):
        assert "hf_xxx" not in text
        assert "mytoken" not in text


def test_what_was_sent_is_the_seed_without_secrets_and_nulls():
    seed = json.loads(SEED)
    for block, name in (("base_model", "auth_token"), ("base_model", "weights_url"), ("callbacks", "auth_header")):
        del seed[block][name]
    assert check(parse(SEED), rules=Rules()).sent == seed


def test_the_seed_s_effective_spec_is_the_golden_one():
    _golden(GOLDEN / "seed_effective.json", _json(check(parse(SEED), rules=Rules()).effective))


def test_what_this_build_cannot_run_of_the_seed_is_the_golden_list():
    effective = check(parse(SEED), rules=Rules()).effective
    _golden(GOLDEN / "seed_not_yet_runnable.json", _json([str_of(found) for found in not_yet_runnable(effective)]))


def test_a_nasty_body_gets_the_golden_violations():
    with pytest.raises(InvalidSpec) as refused:
        check(parse((GOLDEN / "nasty.json").read_bytes()), rules=Rules())
    _golden(GOLDEN / "violations.json", _json([str_of(found) for found in refused.value.violations]))


def str_of(violation: Any) -> dict[str, str]:
    return {"field": violation.field, "reason": violation.reason, "description": violation.description}


def test_the_reference_in_docs_is_fresh():
    _golden(ROOT / "docs" / "spec.md", reference())


def test_the_schema_is_the_golden_one():
    _golden(GOLDEN / "schema.json", _json(json_schema()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("base_model.provider", "local"),
        ("base_model", {"model_name": "owner/name"}),
        ("base_model.weights_url", "s3://bucket/weights/"),
        ("datasets[].source", "s3://bucket/rows.jsonl"),
    ],
)
def test_a_job_can_be_run_wherever_its_inputs_are(path: str, value: Any):
    assert not_yet_runnable(check(changed(LOCAL, path, value), rules=Rules()).effective) == ()


def test_the_fake_trainer_needs_neither_model_nor_rows():
    spec = parse(SEED) | {"backend": "mock", "artifacts": {"output_uri": "file:///o/"}}
    assert not_yet_runnable(check(spec, rules=Rules(dev_mode=True)).effective) == ()
    spec["artifacts"]["output_uri"] = "s3://bucket/o/"
    ((field, reason),) = [
        (found.field, found.reason) for found in not_yet_runnable(check(spec, rules=Rules(dev_mode=True)).effective)
    ]
    assert (field, reason) == ("artifacts.output_uri", "NOT_YET_SUPPORTED")


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("artifacts.output_uri", "s3://bucket/out/", "artifacts.output_uri"),
        ("artifacts.log_uri", "s3://bucket/logs/", "artifacts.log_uri"),
    ],
)
def test_what_comes_later_is_stored_and_named_before_it_is_placed(path: str, value: Any, field: str):
    checked = check(changed(LOCAL, path, value), rules=Rules())
    ((named, reason),) = [(found.field, found.reason) for found in not_yet_runnable(checked.effective)]
    assert (named, reason) == (field, "NOT_YET_SUPPORTED")
