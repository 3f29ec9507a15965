"""Why jobs that need this or that wait, as the dispatcher last found: so that a submit need not wait to be told.

A queue of jobs that nobody can run yet is long, and all of them wait for the same few reasons. A new job with a known
one is stored with it and answered with it, and the dispatcher need not look at it before capacity grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controlplane.domain.job import Requirement

_MOST = 1_000
_Need = tuple[object, ...]


class KnownWaits:
    """Reasons by need, forgotten whenever they may have ceased to be true."""

    def __init__(self) -> None:
        self.generation = 0
        """Rises when all is forgotten. A reason of one generation that is stored in another must be looked at again."""
        self._reasons: dict[_Need, str] = {}

    def why(self, need: Requirement) -> str:
        """The reason; empty: not known."""
        return self._reasons.get(_key(need), "") if self._reasons else ""

    def note(self, need: Requirement, why: str) -> None:
        """Remembers a reason of this generation."""
        if len(self._reasons) < _MOST:
            self._reasons[_key(need)] = why

    def forget(self) -> None:
        """Capacity grew: any of them may be wrong now."""
        self._reasons.clear()
        self.generation += 1


def _key(need: Requirement) -> _Need:
    labels = tuple(sorted(need.labels.items())) if need.labels else ()
    return (need.gpus, need.gpu_type, need.cpus, need.memory_bytes, need.runner, need.node, labels)
