"""What holds for every body and every spec that anybody could send."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import FIELDS, Rules, canonical, check, fit, parse, same
from controlplane.domain.spec.field import Field, Kind, walk
from tests.support.bad_requests import CANARIES, LOCAL, SEED, changed, seed_spec

#: The same examples in every run: a test that may fail tomorrow says nothing today. TRAINPLANE_EXAMPLES hunts for more.
_HUNT = int(os.environ.get("TRAINPLANE_EXAMPLES", "0"))
THOROUGH = settings(max_examples=_HUNT or 40, deadline=None, derandomize=not _HUNT, database=None)

RULES = Rules(default_output_uri="s3://bucket/out", default_log_uri="file:///logs", dev_mode=True)
PATHS = [path for path, _ in walk(FIELDS)]
OPEN_PATHS = [path for path, field in walk(FIELDS) if not field.secret]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=30)
    | st.sampled_from(
        ["lora", "full", "p_tuning", "s3://bucket/x", "file:///x/../y", "http://[::1]/", "[", "%", "a" * 300, "//"]
    )
)
names = st.sampled_from([path.rpartition(".")[2] for path in PATHS]) | st.text(max_size=10)
jsonlike = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=12
)
specs = st.dictionaries(names, jsonlike, max_size=8)


def _right(field: Field) -> st.SearchStrategy[Any]:
    """Values that the table allows a field, as far as it alone can say."""
    if field.choices:
        one: st.SearchStrategy[Any] = st.sampled_from(field.choices)
        return st.lists(one, min_size=1, unique=True) if field.repeated else one
    if field.only is not None:
        return st.just(field.only)
    if field.kind is Kind.FLAG:
        return st.booleans()
    if field.kind is Kind.INTEGER:
        whole = st.integers(int(field.low or 0), int(field.high or 0))
        return whole | whole.map(float)
    if field.kind is Kind.NUMBER:
        return st.floats(field.low, field.high, exclude_min=field.above_low, exclude_max=field.below_high)
    return st.none()


RIGHT = {path: _right(field) for path, field in walk(FIELDS) if not field.not_yet and not field.secret}


@st.composite
def likely_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs most of which are right: numbers, flags and words within their bounds, and a few texts."""
    spec = copy.deepcopy(LOCAL)
    optional = [path for path in RIGHT if path not in {"base_model", "customization", "datasets", "artifacts"}]
    for path in draw(st.lists(st.sampled_from(optional), max_size=12, unique=True)):
        if (value := draw(RIGHT[path])) is not None:
            spec = changed(spec, path, value)
    spec["artifacts"]["output_uri"] = draw(st.sampled_from(["s3://b-b", "file:///o", "file:///o/%20/", None]))
    spec["labels"] = draw(st.dictionaries(st.sampled_from(["a", "team", "x/y"]), st.sampled_from(["", "nlp"])))
    spec["callbacks"] = draw(st.sampled_from([None, {}, {"webhook_url": "https://example.com/x"}]))
    if spec["base_model"].get("provider") == "huggingface":
        spec["base_model"]["model_name"] = "owner/name"
    return spec


@st.composite
def mutated_seeds(draw: st.DrawFn) -> dict[str, Any]:
    spec = seed_spec()
    for path in draw(st.lists(st.sampled_from(OPEN_PATHS), min_size=1, max_size=4)):
        try:
            spec = changed(spec, path, draw(jsonlike))
        except (TypeError, AttributeError, KeyError, IndexError):
            continue  # an earlier change took the place away
    return spec


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
@given(st.data())
def test_the_parser_survives_any_damage_to_a_real_body(data: st.DataObject):
    start = data.draw(st.integers(0, len(SEED)))
    end = data.draw(st.integers(start, min(len(SEED), start + 40)))
    damage = st.binary(max_size=20) | st.sampled_from([b'"', b"{", b"\\u0000", b"1e999", b"NaN", b"[" * 40])
    parsed = _parsed(SEED[:start] + data.draw(damage) + SEED[end:])
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
