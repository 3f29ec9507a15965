"""The JSON Schema: no stricter than the validator, and as strict where one field alone decides."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from controlplane.domain.spec import FIELDS, json_schema, parse
from controlplane.domain.spec.field import Kind, walk
from tests.support.bad_requests import BAD_SPECS, LOCAL, SEED, BadRequest

#: What a schema of single fields can see.
_SEEN = {
    "UNKNOWN_FIELD",
    "WRONG_TYPE",
    "OUT_OF_RANGE",
    "TOO_LONG",
    "TOO_MANY",
    "UNKNOWN_VALUE",
    "NOT_YET_SUPPORTED",
    "EMPTY",
}
#: What only somebody else knows: an installation its backends, a backend its options, PEFT its configuration, a URI's
#: scheme its meaning.
_ELSEWHERE = ("backend", "customization.peft.config.", "datasets[0].source", "tuning_parameters.sharding")
VALIDATOR = Draft202012Validator(json_schema())


def test_the_schema_is_one():
    Draft202012Validator.check_schema(json_schema())


def test_the_seed_and_a_local_job_are_valid():
    VALIDATOR.validate(parse(SEED))
    VALIDATOR.validate(LOCAL)


@pytest.mark.parametrize(
    "bad",
    [b for b in BAD_SPECS if any(r in _SEEN and not f.startswith(_ELSEWHERE) for f, r in b.expected)],
    ids=lambda bad: bad.name,
)
def test_what_one_field_alone_decides_the_schema_refuses_too(bad: BadRequest):
    assert not VALIDATOR.is_valid(bad.spec)


def test_every_field_that_is_supported_is_described():
    schema = json_schema()
    for path, field in walk(FIELDS):
        if field.not_yet:
            continue
        place = schema
        for name in path.replace("[]", "").split("."):
            place = place["properties"][name]
            described = place["description"]
            place = next((choice for choice in place.get("anyOf", [place]) if choice.get("type") != "null"), place)
            if place.get("type") == "array" and place["items"].get("type") == "object":
                place = place["items"]
        assert described == field.doc
        assert field.kind is not Kind.BLOCK or place["type"] == "object"
