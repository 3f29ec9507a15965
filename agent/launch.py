"""How a trainer of this node is started: its command line, its whole environment, and what is refused beforehand."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cgroups import Bounds
from agent.devices import GIB
from agent.runners.protocol import Launch
from trainplane import backends

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.run import Assignment

#: What a trainer gets of the agent's own environment; nothing else, for the rest may hold secrets.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "LD_LIBRARY_PATH")

_DEFAULT_BACKEND = "peft"


class LaunchRefusedError(Exception):
    """The attempt cannot be run on this node; `reason` is one of docs/trainer-contract.md's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Launcher:
    """Prepares launches.

    Attributes:
        model_roots: directories below which `base_model.provider: local` may read; empty: anywhere.
        bounds_enforced: False on a stand-in inventory, whose CPUs may not exist.
        interpreters: backend -> the Python of an environment of its own; the others run in the agent's.
    """

    model_roots: tuple[Path, ...] = ()
    bounds_enforced: bool = True
    interpreters: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, assignment: Assignment, directory: Path) -> Launch:
        """The launch of an attempt.

        Raises:
            LaunchRefusedError: it would fail for certain.
        """
        self._check_model(assignment)
        name = str(assignment.setting("backend") or _DEFAULT_BACKEND)
        backend = backends.find(name)
        if backend is None:
            raise LaunchRefusedError(
                "CONFIG_INVALID", f"backend: this node has no {name!r}; install its distribution there"
            )
        try:
            argv = tuple(backend.command(self.interpreters.get(name, sys.executable), str(directory)))
        except backends.BackendError as error:
            raise LaunchRefusedError("CONFIG_INVALID", f"backend: {error}") from error
        return Launch(
            warm=backend is backends.PEFT and name not in self.interpreters,
            key=assignment.key,
            argv=argv,
            directory=directory,
            first_rank=assignment.first_rank,
            environment=self._environment(assignment, shares_packages=name not in self.interpreters),
            bounds=self._bounds(assignment),
        )

    def _bounds(self, assignment: Assignment) -> Bounds:
        memory_gb, cpus = assignment.setting("resources.memory_gb"), assignment.setting("resources.cpus")
        if not self.bounds_enforced:
            return Bounds()
        return Bounds(int(memory_gb * GIB) if memory_gb else None, int(cpus) if cpus else None)

    def _environment(self, assignment: Assignment, *, shares_packages: bool) -> dict[str, str]:
        environment = child_environment()
        if not shares_packages:
            # It would put the agent's torch before the one that the backend was installed with.
            del environment["PYTHONPATH"]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(assignment.devices)
        # OpenMP's threads otherwise spin at each barrier: with one core too few (another trainer, our own processes)
        # a training on two cores fell from 200 to 10 tokens/s; sleeping instead, it kept 60.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        cpus = assignment.setting("resources.cpus")
        if self.bounds_enforced and cpus:
            environment["OMP_NUM_THREADS"] = str(int(cpus))
        return environment

    def _check_model(self, assignment: Assignment) -> None:
        if assignment.setting("base_model.provider") != "local":
            return
        named = Path(str(assignment.setting("base_model.model_name")))
        model = named.resolve()
        roots = [root.resolve() for root in self.model_roots]
        if roots and not any(model.is_relative_to(root) for root in roots):
            raise LaunchRefusedError(
                "STORAGE_DENIED",
                f"base_model.model_name: {named} is not below a directory that this node's agent allows "
                f"({', '.join(map(str, self.model_roots))}); see --model-root",
            )
        if not named.is_absolute() or not model.is_dir():
            raise LaunchRefusedError(
                "MODEL_NOT_FOUND",
                f"base_model.model_name: {named} is not an absolute path of a directory on this node",
            )
        if not os.access(model, os.R_OK | os.X_OK):
            raise LaunchRefusedError("STORAGE_DENIED", f"base_model.model_name: {named} cannot be read here")


def child_environment(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What every child of the agent gets: minimal, explicit, without secrets."""
    return {
        **{name: own[name] for name in _INHERITED if name in own},
        "LANG": "C.UTF-8",
        # An attempt's directory holds folders that must not pass for modules.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
