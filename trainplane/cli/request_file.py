"""Reading a request file as the user meant it.

The bytes go out as they are, unless something is to be changed:

* YAML becomes JSON;
* `file://./x` and `file://../x`, where the request names data, a model or an output, are relative to the request
  file's own folder (to the working directory for stdin): a request can travel together with its data;
* `--job-id` and `--new-id` replace `job_id`.

JSON is changed without being understood: duplicate keys and numbers stay as they were written, for the control
plane's strict parser to see.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

from trainplane.sdk.documents import YAML_SUFFIXES, yaml_as_json

STDIN = "-"
#: Where a request names files; `*` stands for any index.
_PLACES = (
    ("datasets", "*", "source"),
    ("artifacts", "output_uri"),
    ("artifacts", "log_uri"),
    ("base_model", "weights_url"),
)
#: Takes a path and no URI.
_MODEL_NAME = ("base_model", "model_name")


class _Object(list[tuple[str, Any]]):
    """A JSON object's pairs, as written: a key may stand twice."""


class _Literal(str):
    """A JSON number (or NaN) as it was written."""

    __slots__ = ()


def read(source: str, *, job_id: str | None = None, stdin: BinaryIO | None = None) -> bytes:
    """The JSON bytes of a request file, or of stdin.

    Args:
        source: a path, or `-`.
        job_id: put in place of the file's own.
        stdin: what `-` reads; None: the process' own.

    Raises:
        InvalidRequest: it is YAML, and broken.
        OSError: it cannot be read.
    """
    if source == STDIN:
        content, folder = (stdin or sys.stdin.buffer).read(), Path.cwd()
        is_yaml = not content.lstrip().startswith((b"{", b"[", b'"')) and bool(content.strip())
    else:
        path = Path(source)
        content, folder = path.read_bytes(), path.resolve().parent
        is_yaml = path.suffix.lower() in YAML_SUFFIXES
    return edited(yaml_as_json(content) if is_yaml else content, folder=folder, job_id=job_id)


def edited(body: bytes, *, folder: Path, job_id: str | None) -> bytes:
    """The body with its relative places resolved and its id replaced; the very same bytes if nothing changes."""
    try:
        document = json.loads(
            body.decode(),
            object_pairs_hook=_Object,
            parse_float=_Literal,
            parse_int=_Literal,
            parse_constant=_Literal,
        )
    except (ValueError, RecursionError):
        return body  # the control plane says what is wrong with it
    if not isinstance(document, _Object):
        return body
    changed = [_resolve_all(document, place, folder) for place in (*_PLACES, _MODEL_NAME)]
    if job_id is not None:
        document[:] = [("job_id", job_id), *(pair for pair in document if pair[0] != "job_id")]
    return _written(document).encode() if any(changed) or job_id is not None else body


def _resolve_all(node: Any, place: tuple[str, ...], folder: Path) -> bool:
    """Resolve the strings at one place; whether there was one to resolve."""
    step, rest = place[0], place[1:]
    if step == "*":
        # All of them, not only the first that has one.
        return isinstance(node, list) and sum(_resolve_all(each, rest, folder) for each in node) > 0
    if not isinstance(node, _Object):
        return False
    changed = False
    for index, (key, value) in enumerate(node):
        if key != step:
            continue
        if rest:
            changed |= _resolve_all(value, rest, folder)
        elif type(value) is str and value.startswith(("file://./", "file://../")):
            node[index] = (key, _resolved(value, folder, as_path=step == _MODEL_NAME[-1]))
            changed = True
    return changed


def _resolved(uri: str, folder: Path, *, as_path: bool) -> str:
    relative = uri.removeprefix("file://")
    path = (folder / relative).resolve()
    return str(path) if as_path else path.as_uri() + ("/" if relative.endswith("/") else "")


def _written(value: Any) -> str:
    if isinstance(value, _Literal):
        return str(value)
    if isinstance(value, _Object):
        return "{" + ", ".join(f"{json.dumps(key)}: {_written(inner)}" for key, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(each) for each in value) + "]"
    return json.dumps(value)
