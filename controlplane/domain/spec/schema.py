"""The field table as JSON Schema (draft 2020-12): for editors and for clients that check before they send.

It says what one field may be. What is judged between fields, and what the platform's settings decide, a schema cannot
say: a body that it accepts may still be refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controlplane.domain.spec.field import Field, Kind
from controlplane.domain.spec.fields import FIELDS

if TYPE_CHECKING:
    from trainplane.backends import Backend


def json_schema() -> dict[str, Any]:
    """The schema of a request's body; values of later versions are not in it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TrainingSpec",
        **_object(FIELDS),
    }


def backend_schema(backend: Backend) -> dict[str, Any]:
    """The schema of the requests that one engine takes, its own options among them."""
    schema = json_schema()
    schema["title"] = f"TrainingSpec for backend {backend.name}"
    known = schema["properties"]
    known["backend"] = {"const": backend.name}
    options = {"anyOf": [backend.schema(), {"type": "null"}]}
    known["backend_options"] = {"description": known["backend_options"]["description"]} | options
    return schema


def _object(fields: tuple[Field, ...]) -> dict[str, Any]:
    known = [field for field in fields if not field.not_yet]
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: _property(field) for field in known},
    }
    required = [field.name for field in known if field.required]
    return schema | ({"required": required} if required else {})


def _property(field: Field) -> dict[str, Any]:
    value = _value(field)
    if field.repeated:
        value = {"type": "array", "items": value, "minItems": 1, "maxItems": field.max_items}
        if field.kind is Kind.TEXT:
            value["uniqueItems"] = True
    if not field.required:
        # null is "not set".
        value = {"anyOf": [value, {"type": "null"}]}
    described = {"description": field.doc} | value
    if field.default is not None:
        described["default"] = list(field.default) if field.repeated else field.default
    if field.secret:
        described["writeOnly"] = True
    return described


def _value(field: Field) -> dict[str, Any]:  # noqa: PLR0911 - one return for each kind
    if field.kind is Kind.BLOCK:
        return _object(field.fields)
    if field.kind is Kind.FREE:
        return {"type": "object"}
    if field.kind is Kind.MAP:
        return _map(field)
    if field.kind is Kind.TEXT:
        return _text(field)
    if field.only is not None:
        return {"const": field.only}
    if field.kind is Kind.FLAG:
        return {"type": "boolean"}
    return {
        "type": field.kind.value,
        ("exclusiveMinimum" if field.above_low else "minimum"): field.low,
        ("exclusiveMaximum" if field.below_high else "maximum"): field.high,
    }


def _map(field: Field) -> dict[str, Any]:
    value = {"type": "string", "minLength": 1 if field.keys else 0, "maxLength": field.max_length}
    schema = {"type": "object", "additionalProperties": value, "maxProperties": field.max_items}
    if field.keys:
        return schema | {"propertyNames": {"enum": list(field.keys)}}
    if field.key_shape is not None and field.key_shape.accepts is not None:
        return schema | {"propertyNames": {"pattern": f"^(?:{field.key_shape.accepts.pattern})$"}}
    return schema


def _text(field: Field) -> dict[str, Any]:
    if field.choices:
        return {"type": "string", "enum": list(field.choices)}
    schema = {"type": "string", "minLength": 1, "maxLength": field.max_length}
    # A shape with a judge accepts more than its pattern.
    if field.shape is not None and field.shape.accepts is not None and field.shape.judge is None:
        schema["pattern"] = f"^(?:{field.shape.accepts.pattern})$"
    return schema
