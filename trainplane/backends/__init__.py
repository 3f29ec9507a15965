"""Training engines as the control plane and the agent see them: what they accept, and how they are started.

Torch-free on purpose: a spec is judged at submit by a process that could not import torch.
"""

from trainplane.backends.backend import Backend, Finding
from trainplane.backends.mock import MOCK
from trainplane.backends.peft import PEFT

__all__ = ["BACKENDS", "MOCK", "PEFT", "Backend", "Finding", "find"]

#: Every engine of this build, by name.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (PEFT, MOCK)}


def find(name: str) -> Backend | None:
    """The engine of that name, or None."""
    return BACKENDS.get(name)
