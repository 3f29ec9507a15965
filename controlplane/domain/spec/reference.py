"""docs/spec.md, made from the field table: the reference cannot say anything else than the validator does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from controlplane.domain.spec.field import Field, Kind, walk
from controlplane.domain.spec.fields import FIELDS
from controlplane.domain.spec.syntax import MAX_BODY_BYTES, MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = f"""\
# The request, field by field

Made from `controlplane/domain/spec/fields.py` by `python -m controlplane.domain.spec`; do not edit.

The body of `POST /train` is one JSON object of at most {MAX_BODY_BYTES // 1024} KiB, nested at most {MAX_DEPTH} deep,
in UTF-8 and snake_case. `null` is "not set", and so is an empty object; an array that is sent has at least one entry.
A whole number may be written with a fraction of zero (`16.0`). An unknown field, a duplicate key or a wrong type is
refused; all violations come in one answer. A value under *later* is known and refused with `NOT_YET_SUPPORTED`. Every
default stands in the answer's `effective_spec`.
"""


def reference() -> str:
    """The whole page, as Markdown."""
    sections = [_HEAD, _section("Top level", FIELDS)]
    sections += [_section(f"`{path}`", field.fields) for path, field in _blocks()]
    return "\n".join(sections)


def _blocks() -> Iterator[tuple[str, Field]]:
    for path, field in walk(FIELDS):
        if field.kind is Kind.BLOCK:
            yield (f"{path}[]" if field.repeated else path), field


def _section(title: str, fields: tuple[Field, ...]) -> str:
    rows = "\n".join(
        f"| `{field.name}` | {_type(field)} | {_default(field)} | {_values(field)} | {field.doc} |" for field in fields
    )
    return f"## {title}\n\n| field | type | default | values | meaning |\n|---|---|---|---|---|\n{rows}\n"


def _type(field: Field) -> str:
    name = f"array of {field.kind.value}s" if field.repeated else field.kind.value
    return f"{name}, secret" if field.secret else name


def _default(field: Field) -> str:
    if field.required:
        return "**required**"
    if field.default_note:
        return field.default_note
    if field.default is None:
        return "none"
    if field.repeated:
        return f"`{json.dumps(field.default)}`"
    return f"`{str(field.default).lower()}`"


def _values(field: Field) -> str:
    if field.not_yet:
        return "*later*"
    words = [field.range_words()]
    if field.kind is Kind.TEXT:
        words = [_text(field)]
    elif field.kind is Kind.MAP:
        keys = ", ".join(f"`{key}`" for key in field.keys) if field.keys else f"keys {_shape(field)}"
        words = [f"{keys}; values up to {field.max_length} characters; at most {field.max_items}"]
    if field.only is not None:
        words = [f"`{str(field.only).lower()}`; *later:* others"]
    if field.repeated:
        words.append(f"up to {field.max_items} entries")
    return "; ".join(word for word in words if word)


def _shape(field: Field) -> str:
    return field.key_shape.says if field.key_shape is not None else "any"


def _text(field: Field) -> str:
    if field.choices:
        later = f"; *later:* {', '.join(f'`{word}`' for word in field.later)}" if field.later else ""
        return ", ".join(f"`{word}`" for word in field.choices) + later
    says = f"{field.shape.says}; " if field.shape is not None else ""
    return f"{says}up to {field.max_length} characters"
