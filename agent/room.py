"""Whether this node's disk has room for what an attempt will write, asked before its trainer starts.

Only for certain: what is reckoned from the model's own files, which are here by then, without the data's tokens. A disk
that another job fills meanwhile is found full when it is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import structlog

from agent import checkpoint
from agent.inputs import sampling
from agent.inputs.failures import DISK_FULL, InputError
from agent.launch import LaunchRefusedError
from trainplane import backends

if TYPE_CHECKING:
    from agent.run import Assignment
    from trainplane.backends.disk import Written

_log = structlog.get_logger()
_GIB = 2**30


def check(assignment: Assignment, directory: Path) -> None:
    """Compare what an attempt will write with what is free where it will write it. Reads the model's headers.

    Args:
        assignment: whose inputs are here.
        directory: the attempt's.

    Raises:
        LaunchRefusedError: DISK_FULL: there is no room for it.
    """
    if not (assignment.leads and assignment.reads_inputs):
        return
    will = _written(assignment, directory)
    if will is None:
        return
    kept = sum(path.stat().st_size for path in (directory / checkpoint.DIRECTORY).rglob("*") if path.is_file())
    # Merging is over when the output is staged at its place, and then copied there.
    needed = will.checkpoints - min(kept, will.checkpoints) + will.published
    published, place = 2 * will.published, _place(assignment)
    if place is None:
        _require(needed + will.scratch, directory, will)
    elif place.stat().st_dev == directory.stat().st_dev:
        _require(needed + max(will.scratch, published), directory, will, f"; its copies at its place {_gib(published)}")
    else:
        _require(needed + will.scratch, directory, will)
        _require(published, place, will, " while it is put there, twice")


def _written(assignment: Assignment, directory: Path) -> Written | None:
    """What the engine reckons; None where it does not, or the model's files do not tell."""
    backend = backends.find(str(assignment.setting("backend") or ""))
    reckon = getattr(backend, "least_disk", None)
    if reckon is None:
        return None
    try:
        model = _model(assignment, directory)
        found: Written | None = reckon(dict(assignment.spec), {"model": sampling.in_directory(model).facts()})
    except (InputError, OSError, ValueError, LookupError, TypeError) as error:
        # Whether it can be loaded is for the trainer to tell, in its own words.
        _log.info("room not reckoned", job=assignment.key.uid, attempt=assignment.key.number, why=type(error).__name__)
        return None
    return found


def _model(assignment: Assignment, directory: Path) -> Path:
    inputs = directory / "inputs.json"
    if inputs.exists():
        return Path(json.loads(inputs.read_bytes())["model"]["path"])
    return Path(str(assignment.setting("base_model.model_name")))


def _place(assignment: Assignment) -> Path | None:
    """The directory that is there of the output's place; None: it is not on this node."""
    uri = urlsplit(str(assignment.setting("artifacts.output_uri") or ""))
    if uri.scheme != "file":
        return None
    path = Path(unquote(uri.path))
    return next((each for each in (path, *path.parents) if each.is_dir()), None)


def _require(needed: float, place: Path, will: Written, more: str = "") -> None:
    free = shutil.disk_usage(place).free
    if needed <= free:
        return
    parts: dict[str, Any] = {
        "checkpoints": will.checkpoints,
        "the output": will.output,
        "merged": will.merged,
        "GGUF": will.gguf,
        "merging": will.scratch,
    }
    said = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size)
    raise LaunchRefusedError(
        DISK_FULL,
        f"base_model: this training needs {_gib(needed)} of the node's disk at {place} ({said}{more}), and "
        f"{_gib(free)} are free: make room there, let another node take it (placement), or ask for less "
        "(tuning_parameters.checkpoint_limit, export)",
    )


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
