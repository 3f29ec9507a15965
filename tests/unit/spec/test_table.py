"""The field table: equal to the proto, and every bound of it is where it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import FIELDS, Rules, check, same
from controlplane.domain.spec.field import Field, Kind, walk
from tests.support.bad_requests import ABSENT, LOCAL, changed, seed_spec
from trainplane.v1.training_spec_pb2 import TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCALARS = {
    FieldDescriptor.TYPE_STRING: Kind.TEXT,
    FieldDescriptor.TYPE_INT32: Kind.INTEGER,
    FieldDescriptor.TYPE_DOUBLE: Kind.NUMBER,
    FieldDescriptor.TYPE_BOOL: Kind.FLAG,
}
NUMBERS = [
    (path, f) for path, f in walk(FIELDS) if f.kind in {Kind.INTEGER, Kind.NUMBER} and not f.not_yet and f.only is None
]


def _kind(field: FieldDescriptor) -> Kind:
    message = field.message_type
    if message is None:
        return _SCALARS[field.type]
    if message.GetOptions().map_entry:
        assert message.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING
        return Kind.MAP
    return Kind.FREE if message.full_name == "google.protobuf.Struct" else Kind.BLOCK


def _of_message(message: Descriptor, prefix: str = "") -> Iterator[tuple[str, Kind, bool, bool]]:
    for field in message.fields:
        kind = _kind(field)
        path = prefix + field.name
        repeated = field.is_repeated and kind is not Kind.MAP
        yield path, kind, repeated, field.GetOptions().debug_redact
        if kind is Kind.BLOCK:
            yield from _of_message(field.message_type, f"{path}[]." if repeated else f"{path}.")


def test_the_table_has_exactly_the_proto_s_fields_types_order_and_secrets():
    of_table = [(path, field.kind, field.repeated, field.secret) for path, field in walk(FIELDS)]
    assert of_table == list(_of_message(TrainingSpec.DESCRIPTOR))


def test_every_scalar_of_the_proto_has_presence():
    for path, field in walk(FIELDS):
        message = TrainingSpec.DESCRIPTOR
        *blocks, last = path.replace("[]", "").split(".")
        for name in blocks:
            message = message.fields_by_name[name].message_type
        if not field.repeated and field.kind != Kind.MAP:
            assert message.fields_by_name[last].has_presence, path


def _ends(field: Field) -> tuple[float, float]:
    assert field.low is not None
    assert field.high is not None
    tiny = 1e-9
    low = field.low + tiny if field.above_low else field.low
    return low, field.high - tiny if field.below_high else field.high


def _at(checked: dict[str, Any], path: str) -> Any:
    value: Any = checked
    for name in path.split("."):
        value = value[name.removesuffix("[]")]
        value = value[0] if name.endswith("[]") else value
    return value


@pytest.mark.parametrize(("path", "field"), NUMBERS, ids=[path for path, _ in NUMBERS])
def test_both_ends_of_a_number_s_range_are_taken(path: str, field: Field):
    for value in _ends(field):
        base = changed(LOCAL, "tuning_parameters.batch_size", 1024) if path == "resources.gpus" else LOCAL
        checked = check(changed(base, path, value), rules=Rules())
        assert _at(checked.sent, path) == value
        assert _at(checked.effective, path) == value


#: Of these some whole number is in range.
WHOLE = [(path, field) for path, field in NUMBERS if not (field.above_low and field.below_high and field.high == 1)]


@pytest.mark.parametrize(("path", "field"), WHOLE, ids=[path for path, _ in WHOLE])
def test_a_whole_number_is_taken_with_a_fraction_of_zero_and_kept_without(path: str, field: Field):
    value = float(max(1, field.low or 0)) if not field.below_high else 0.0
    checked = check(changed(LOCAL, path, value), rules=Rules())
    assert type(_at(checked.sent, path)) is int


def test_every_default_that_the_table_states_is_filled_in():
    effective = check(LOCAL, rules=Rules()).effective
    for path, field in walk(FIELDS):
        if field.default is None or path.startswith(("customization.qlora", "base_model.provider")):
            continue
        wanted = list(field.default) if field.repeated else field.default
        assert _at(effective, path) == wanted, path


@pytest.mark.parametrize("path", [path for path, field in walk(FIELDS) if not field.required and not field.not_yet])
def test_null_is_the_same_as_absent(path: str):
    rules = Rules(default_output_uri="file:///o/")
    with_null = changed(seed_spec(), path, None)
    without = changed(with_null, path, ABSENT)
    judged, other = check(with_null, rules=rules, fallback_job_id="x"), check(without, rules=rules, fallback_job_id="x")
    assert judged == other
    assert same(judged.sent, {}, other.sent, {}) == []


def test_no_default_is_shared_between_two_jobs():
    first = check(seed_spec(), rules=Rules()).effective
    first["callbacks"]["events"].clear()
    first["customization"]["target_modules"].append("x")
    again = check(seed_spec(), rules=Rules())
    assert again.effective["callbacks"]["events"]
    assert again.sent["customization"]["target_modules"] == ["q_proj", "v_proj"]


def test_every_known_word_of_a_choice_is_taken():
    for path, field in walk(FIELDS):
        for word in field.choices:
            value: Any = [word] if field.repeated else word
            base = seed_spec() if path.startswith("base_model") and word == "huggingface" else LOCAL
            if path == "datasets[].split":
                base = changed(LOCAL, "datasets", [*LOCAL["datasets"], {"source": "file:///data/more.jsonl"}])
            if path.endswith("callbacks.events"):
                base = changed(LOCAL, "callbacks.webhook_url", "https://example.com/")
            if (path, word) == ("base_model.provider", "s3"):
                base = changed(LOCAL, "base_model.model_name", "s3://bucket/models/tiny/")
            if word == "fp16" or (path, word) == ("tuning_parameters.sharding", "full"):
                base = changed(LOCAL, "resources", {"gpus": 2})
            checked = check(changed(base, path, value), rules=Rules(dev_mode=True))
            assert _at(checked.sent, path) == value


def test_an_unknown_word_is_answered_with_all_known_ones():
    with pytest.raises(InvalidSpec) as refused:
        check(changed(LOCAL, "customization.method", "qlorra"), rules=Rules())
    (found,) = refused.value.violations
    assert "lora, qlora, dora, adalora" in found.description
    assert found.description.endswith("did you mean qlora?")
