"""The ranks of an attempt, as their logs in its directory say: one process of a training each, numbered from 0."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LOG = re.compile(r"rank-(0|[1-9][0-9]{0,5})\.log")


def logs(directory: Path) -> dict[int, Path]:
    """Every rank's log that there is, by rank, in order; `directory` is the attempt's."""
    try:
        found = {int(match[1]): path for path in (directory / "logs").iterdir() if (match := _LOG.fullmatch(path.name))}
    except FileNotFoundError:
        return {}
    return dict(sorted(found.items()))
