"""Named places where a test kills the process, as a power cut would: `TRAINPLANE_FAILPOINT=agent.after_claim`.

Several names are separated by commas. Unset, a failpoint costs one comparison.
"""

from __future__ import annotations

import os
import signal

_VARIABLE = "TRAINPLANE_FAILPOINT"
_ARMED = frozenset(filter(None, os.environ.get(_VARIABLE, "").split(",")))


def inherited() -> dict[str, str]:
    """What a child's environment needs so that its own failpoints are armed too."""
    return {_VARIABLE: os.environ[_VARIABLE]} if _ARMED else {}


def failpoint(name: str) -> None:
    """Die here by SIGKILL, if the environment names this place."""
    if name in _ARMED:
        os.kill(os.getpid(), signal.SIGKILL)
