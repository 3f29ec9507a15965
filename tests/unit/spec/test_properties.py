"""What holds for every body and every spec that anybody could send."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import Rules, canonical, check, fit, parse, same
from tests.support.bad_requests import CANARIES
from tests.support.spec_strategies import damaged_seeds, likely_specs, mutated_seeds, specs

#: The same examples in every run: a test that may fail tomorrow says nothing today. TRAINPLANE_EXAMPLES hunts for more.
_HUNT = int(os.environ.get("TRAINPLANE_EXAMPLES", "0"))
THOROUGH = settings(max_examples=_HUNT or 40, deadline=None, derandomize=not _HUNT, database=None)

RULES = Rules(default_output_uri="s3://bucket/out", default_log_uri="file:///logs", dev_mode=True)


def _judge(spec: dict[str, Any]) -> Any:
    before = copy.deepcopy(spec)
    try:
        return check(spec, rules=RULES, fallback_job_id="fallback")
    except InvalidSpec as refused:
        return refused
    finally:
        assert spec == before


def _parsed(body: bytes) -> dict[str, Any] | InvalidSpec:
    try:
        return parse(body)
    except InvalidSpec as refused:
        return refused


@THOROUGH
@given(st.binary(max_size=400))
def test_the_parser_raises_nothing_but_invalid_spec_on_any_bytes(body: bytes):
    parsed = _parsed(body)
    assert isinstance(parsed, dict) or len(parsed.violations) == 1


@THOROUGH
@given(damaged_seeds())
def test_the_parser_survives_any_damage_to_a_real_body(body: bytes):
    parsed = _parsed(body)
    if isinstance(parsed, dict):
        _judge(parsed)
    else:
        assert len(parsed.violations) == 1


@THOROUGH
@given(specs)
def test_a_parsed_body_is_what_json_says_it_is(spec: dict[str, Any]):
    try:
        text = json.dumps(spec, allow_nan=False)
        parsed = parse(text.encode())
    except (ValueError, InvalidSpec):
        return
    assert parsed == json.loads(text)


@THOROUGH
@given(specs | mutated_seeds())
def test_the_validator_raises_nothing_but_invalid_spec_and_leaves_its_argument(spec: dict[str, Any]):
    judged = _judge(spec)
    if isinstance(judged, InvalidSpec):
        for found in judged.violations:
            found.field.encode()
            found.description.encode()
            assert len(found.description) < 1000
        kept, left_out = fit(judged.violations)
        assert len(kept) + left_out == len(judged.violations)


@THOROUGH
@given(mutated_seeds())
def test_no_answer_holds_a_secret(spec: dict[str, Any]):
    judged = _judge(spec)
    shown = str(judged.violations) if isinstance(judged, InvalidSpec) else repr(judged) + canonical(judged.sent)
    assert not any(canary in shown for canary in CANARIES)


@THOROUGH
@given(likely_specs() | mutated_seeds())
def test_checking_an_effective_spec_changes_nothing(spec: dict[str, Any]):
    judged = _judge(spec)
    if not isinstance(judged, InvalidSpec):
        again = check(judged.effective, rules=Rules(dev_mode=True))
        assert again.effective == judged.effective
        assert json.loads(canonical(judged.effective)) == judged.effective


@THOROUGH
@given(likely_specs() | mutated_seeds())
def test_a_spec_survives_being_stored_and_is_the_same_as_itself(spec: dict[str, Any]):
    judged = _judge(spec)
    if not isinstance(judged, InvalidSpec):
        stored = json.loads(canonical(judged.sent))
        assert same(stored, {}, judged.sent, {}) == []
        assert canonical(check(stored, rules=RULES, fallback_job_id="fallback").sent) == canonical(judged.sent)


def test_most_of_the_likely_specs_are_right():
    judged: list[bool] = []

    @settings(max_examples=60, derandomize=True, database=None, deadline=None)
    @given(likely_specs())
    def count(spec: dict[str, Any]) -> None:
        judged.append(not isinstance(_judge(spec), InvalidSpec))

    count()
    assert sum(judged) > len(judged) / 2
