"""A JSON description as a `TrainingSpec`, for the typed door (`validate_only`).

`json_format.Parse` stops at the first error, takes `"NaN"` for a number and echoes values, secrets too. This walk
over the message's descriptor finds everything at once, and says it in the control plane's words; what a *value* may
be is the control plane's to check.
"""

from __future__ import annotations

import difflib
import json
import math
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, struct_pb2
from google.protobuf.descriptor import FieldDescriptor

from trainplane.errors import Violation
from trainplane.sdk.documents import invalid
from trainplane.v1.training_spec_pb2 import TrainingSpec

if TYPE_CHECKING:
    from google.protobuf.message import Message

_STRUCT = struct_pb2.Struct.DESCRIPTOR.full_name
_INT32 = range(-(2**31), 2**31)
#: As deep as a free-form block may nest.
_MAX_DEPTH = 30


def to_message(body: bytes) -> TrainingSpec:
    """Read a JSON description; `null` is "not set".

    Raises:
        InvalidRequest: with every unknown field, duplicate key and wrong type.
    """
    reader = _Reader()
    try:
        document = json.loads(body, object_pairs_hook=reader.distinct, parse_constant=lambda _: math.nan)
    except RecursionError:
        raise invalid(Violation("", "TOO_DEEP", "nested too deep")) from None
    except ValueError as error:
        # JSONDecodeError says where, UnicodeDecodeError that it is no text; neither echoes values.
        raise invalid(Violation("", "INVALID_JSON", f"is no JSON: {error}")) from None
    spec = TrainingSpec()
    reader.fill(spec, document, "")
    if reader.violations:
        raise invalid(*reader.violations)
    return spec


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


class _Reader:
    """Collects what is wrong with one document."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def distinct(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object of its pairs; a key that stands twice is a violation."""
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                self._wrong(key, "DUPLICATE_FIELD", "stands twice in its object")
            found[key] = value
        return found

    def fill(self, message: Message, value: object, path: str) -> None:
        """Set the fields of a message from an object."""
        if not isinstance(value, dict):
            self._wrong(path, "WRONG_TYPE", f"must be an object, got {_kind(value)}")
            return
        fields = message.DESCRIPTOR.fields_by_name
        for name, inner in value.items():
            here = f"{path}.{name}" if path else name
            if name not in fields:
                self._unknown(here, name, known=list(fields))
            elif inner is not None:
                self._set(message, fields[name], inner, here)

    def _set(self, message: Message, field: Any, value: Any, path: str) -> None:
        target = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(target, value, path)
        elif field.is_repeated:
            self._fill_list(target, field, value, path)
        elif field.message_type is not None and field.message_type.full_name == _STRUCT:
            self._fill_struct(target, value, path)
        elif field.message_type is not None:
            target.SetInParent()
            self.fill(target, value, path)
        elif self._fits(field, value, path):
            setattr(message, field.name, value)

    def _fill_map(self, target: Any, value: object, path: str) -> None:
        if not isinstance(value, dict):
            self._wrong(path, "WRONG_TYPE", f"must be an object, got {_kind(value)}")
            return
        for key, text in value.items():
            here = f"{path}.{key}"
            if not isinstance(text, str):
                self._wrong(here, "WRONG_TYPE", f"must be a string, got {_kind(text)}")
            elif self._is_text(key, here) and self._is_text(text, here):
                target[key] = text

    def _fill_list(self, target: Any, field: Any, value: object, path: str) -> None:
        if not isinstance(value, list):
            self._wrong(path, "WRONG_TYPE", f"must be a list, got {_kind(value)}")
            return
        for index, each in enumerate(value):
            here = f"{path}[{index}]"
            if field.message_type is not None:
                self.fill(target.add(), each, here)
            elif self._fits(field, each, here):
                target.append(each)

    def _fill_struct(self, target: struct_pb2.Struct, value: object, path: str) -> None:
        if not isinstance(value, dict):
            self._wrong(path, "WRONG_TYPE", f"must be an object, got {_kind(value)}")
            return
        try:
            json_format.ParseDict(value, target, max_recursion_depth=_MAX_DEPTH)
        except (json_format.ParseError, UnicodeError):
            self._wrong(path, "WRONG_TYPE", "must hold plain, finite values, not nested too deep")

    def _fits(self, field: Any, value: Any, path: str) -> bool:
        """Whether a scalar is of the field's type; if not, a violation that names both kinds and no value."""
        if field.type == FieldDescriptor.TYPE_STRING:
            wanted, fits = "a string", isinstance(value, str)
        elif field.type == FieldDescriptor.TYPE_BOOL:
            wanted, fits = "true or false", isinstance(value, bool)
        elif field.type == FieldDescriptor.TYPE_INT32:
            wanted, fits = "a whole number of 32 bits", type(value) is int and value in _INT32
        else:
            wanted = "a finite number"
            fits = type(value) in (int, float) and abs(value) <= 1e300  # NaN is not
        if not fits:
            self._wrong(path, "WRONG_TYPE", f"must be {wanted}, got {_kind(value)}")
        return fits and (not isinstance(value, str) or self._is_text(value, path))

    def _is_text(self, value: str, path: str) -> bool:
        """Whether a string is Unicode: JSON can write half of a surrogate pair, and a message cannot hold it."""
        if value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value):
            return True
        self._wrong(ascii(path)[1:-1], "MALFORMED", "has half of a surrogate pair, which is no character")
        return False

    def _unknown(self, path: str, name: str, *, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        self._wrong(path, "UNKNOWN_FIELD", "no such field" + (f"; did you mean {near[0]}?" if near else ""))

    def _wrong(self, path: str, reason: str, description: str) -> None:
        self.violations.append(Violation(path, reason, description))
