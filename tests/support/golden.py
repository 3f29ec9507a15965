"""Goldens: what others rely on, committed, so that a change of it shows in review."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def as_committed(file: Path, found: str) -> None:
    """Asserts that the golden file says just this; with `UPDATE_GOLDEN=1` it is written anew, for the diff to be read."""
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found)
    assert found == file.read_text(), f"{file.name} changed: look at the diff, then UPDATE_GOLDEN=1"
