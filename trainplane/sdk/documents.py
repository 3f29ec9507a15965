"""A job's description as the bytes of a JSON document: what goes through the JSON door.

JSON is passed on as it is: the control plane's strict parser must see duplicate keys and the like. YAML is
converted, read by the rules of YAML 1.2's core schema, because PyYAML's own (1.1) take `2e-4` for a string and `no`
for false.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trainplane.errors import Details, InvalidRequest, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

YAML_SUFFIXES = frozenset({".yaml", ".yml"})


def as_json(document: Mapping[str, Any] | str | bytes | Path) -> bytes:
    """The JSON of a mapping, of JSON text, or of a file (YAML by its suffix).

    Raises:
        InvalidRequest: the file is no YAML, or says a key twice.
        OSError: the file cannot be read.
        TypeError: the mapping holds what JSON has no word for.
    """
    if isinstance(document, bytes):
        return document
    if isinstance(document, str):
        return document.encode()
    if isinstance(document, Path):
        content = document.read_bytes()
        return yaml_as_json(content) if document.suffix.lower() in YAML_SUFFIXES else content
    return json.dumps(document).encode()


def message_as_json(message: Message) -> bytes:
    """The JSON of a `TrainingSpec`."""
    from google.protobuf.json_format import MessageToDict

    return json.dumps(MessageToDict(message, preserving_proto_field_name=True)).encode()


def yaml_as_json(content: bytes) -> bytes:
    """The JSON of a YAML document.

    Raises:
        InvalidRequest: it is none, or says a key twice.
    """
    try:
        # The loader is a SafeLoader: plain values only.
        document = yaml.load(content, Loader=_CoreLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise invalid(Violation("", "MALFORMED_YAML", " ".join(str(error).split()))) from None
    return json.dumps(document).encode()


def idempotency_key(body: bytes) -> str:
    """A fresh key for a description that has no job_id, so that a repeat is the same job; empty if it has one."""
    try:
        document = json.loads(body)
    except ValueError:
        return ""  # it will be refused
    wants_id = isinstance(document, dict) and document.get("job_id") is None
    return new_job_id() if wants_id else ""


def new_job_id() -> str:
    """A fresh job_id."""
    return f"job-{secrets.token_hex(6)}"


def invalid(*violations: Violation) -> InvalidRequest:
    """The exception for what the client itself found, in the control plane's words."""
    count = len(violations)
    message = "1 field is invalid" if count == 1 else f"{count} fields are invalid"
    return InvalidRequest(message, Details(reason="INVALID_SPEC", violations=violations))


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema: no dates, no `yes`, no octal by a leading zero; a key twice is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _core_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


def _core_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _core_int)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _core_float)
