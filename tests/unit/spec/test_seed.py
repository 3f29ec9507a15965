"""The users' own request, byte for byte, and the goldens that others rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import Rules, canonical, check, json_schema, parse, reference
from tests.support.bad_requests import SEED
from tests.support.golden import as_committed

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "spec"


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
    as_committed(GOLDEN / "seed_effective.json", _json(check(parse(SEED), rules=Rules()).effective))


def test_a_nasty_body_gets_the_golden_violations():
    with pytest.raises(InvalidSpec) as refused:
        check(parse((GOLDEN / "nasty.json").read_bytes()), rules=Rules())
    as_committed(GOLDEN / "violations.json", _json([str_of(found) for found in refused.value.violations]))


def str_of(violation: Any) -> dict[str, str]:
    return {"field": violation.field, "reason": violation.reason, "description": violation.description}


def test_the_reference_in_docs_is_fresh():
    as_committed(ROOT / "docs" / "spec.md", reference())


def test_the_schema_is_the_golden_one():
    as_committed(GOLDEN / "schema.json", _json(json_schema()))
