"""Training engines as the control plane and the agent see them: what they accept, and how they are started.

Torch-free on purpose: a spec is judged at submit by a process that could not import torch. Engines of others come by
entry points, which are looked for once in a process, at the first question.
"""

from functools import lru_cache

from trainplane.backends.backend import Backend, BackendError, Finding
from trainplane.backends.mock import MOCK
from trainplane.backends.peft import PEFT
from trainplane.backends.third_party import Broken, discovered

__all__ = ["MOCK", "OURS", "PEFT", "Backend", "BackendError", "Broken", "Finding", "broken", "find", "forget", "names"]

#: The engines of this build, by name.
OURS: dict[str, Backend] = {backend.name: backend for backend in (PEFT, MOCK)}


@lru_cache(maxsize=1)
def _known() -> tuple[dict[str, Backend], tuple[Broken, ...]]:
    others, skipped = discovered(OURS)
    return OURS | others, skipped


def find(name: str) -> Backend | None:
    """The engine of that name, or None."""
    return OURS.get(name) or _known()[0].get(name)


def names() -> tuple[str, ...]:
    """Of every engine, sorted."""
    return tuple(sorted(_known()[0]))


def broken() -> tuple[Broken, ...]:
    """Engines of others that could not be loaded: for whoever starts a process to tell."""
    return _known()[1]


def forget() -> None:
    """Look for engines of others anew at the next question."""
    _known.cache_clear()
