"""What this build accepts but cannot run yet: asked when a job could be placed, before a device is taken.

These are fields of requests that users send already, so a submit stores them; the job then fails at once with
NOT_YET_SUPPORTED, in words. Each later issue takes rows away from here.
"""

from __future__ import annotations

from typing import Any

from controlplane.domain.errors import Violation
from controlplane.domain.spec.problem import NOT_YET_SUPPORTED


def not_yet_runnable(effective: dict[str, Any]) -> tuple[Violation, ...]:
    """Everything in an effective spec that this build cannot run; empty: it can be placed."""
    return tuple(Violation(field, NOT_YET_SUPPORTED, description) for field, description in _platform(effective))


def _platform(effective: dict[str, Any]) -> list[tuple[str, str]]:
    artifacts = effective["artifacts"]
    return [
        (f"artifacts.{name}", "locations outside file:// come later")
        for name in ("log_uri", "output_uri")
        if name in artifacts and not artifacts[name].startswith("file://")
    ]
