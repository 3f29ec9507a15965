"""Bodies and specs that anybody could send: nonsense, the users' own request with damage, and mostly right ones."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from controlplane.domain.spec import FIELDS
from controlplane.domain.spec.field import Field, Kind, walk
from tests.support.bad_requests import LOCAL, SEED, changed, seed_spec

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


@st.composite
def damaged_seeds(draw: st.DrawFn) -> bytes:
    """The bytes of the users' own request, a piece of them replaced."""
    start = draw(st.integers(0, len(SEED)))
    end = draw(st.integers(start, min(len(SEED), start + 40)))
    damage = st.binary(max_size=20) | st.sampled_from([b'"', b"{", b"\\u0000", b"1e999", b"NaN", b"[" * 40])
    return SEED[:start] + draw(damage) + SEED[end:]


def bodies() -> st.SearchStrategy[bytes]:
    """Of all these kinds."""
    return st.binary(max_size=400) | damaged_seeds() | (specs | mutated_seeds() | likely_specs()).map(_encoded)


def _encoded(spec: dict[str, Any]) -> bytes:
    return json.dumps(spec).encode()
