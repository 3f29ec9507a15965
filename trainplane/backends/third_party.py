"""Engines of others: distributions with an entry point in the group `trainplane.backends`.

They are loaded into the control plane and the agent, so a broken one must do no harm: what fails while it is loaded,
or is no engine, is skipped and told; what fails later is a refusal of the spec, or of the start. Nothing here is a
sandbox: whoever installs a distribution runs its code.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from trainplane.backends.backend import Backend, BackendError, Finding
from trainplane.backends.estimate import Estimate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from importlib.metadata import EntryPoint

GROUP = "trainplane.backends"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Broken:
    """An entry point that was skipped."""

    entry_point: str
    distribution: str
    why: str


class NoEngine(Exception):  # noqa: N818 - it says what it is
    """What an entry point names does not fulfil the contract."""


class Guarded:
    """Somebody else's engine, held to the contract."""

    def __init__(self, inner: Any) -> None:
        """Asks it once for what does not change.

        Raises:
            NoEngine: it is none; the text says why.
        """
        self._inner = inner
        self.name = inner.name
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise NoEngine("its name must be 1 to 63 of a-z 0-9 _ -, the first a letter")
        self.description = str(inner.description)
        for method in ("validate", "command"):
            if not callable(getattr(inner, method, None)):
                raise NoEngine(f"it has no method {method}")
        schema = inner.schema()
        if not isinstance(schema, dict):
            raise NoEngine("its schema must be a dict")
        self._schema: dict[str, Any] = json.loads(json.dumps(schema, allow_nan=False))

    def schema(self) -> dict[str, Any]:
        """As it was when it was loaded."""
        return self._schema

    def validate(self, effective_spec: dict[str, Any]) -> list[Finding]:
        """Its findings; one about itself where it fails to judge."""
        try:
            found = self._inner.validate(effective_spec)
            return [(str(field), str(reason), str(says)) for field, reason, says in found]
        except Exception as error:  # noqa: BLE001 - it may raise anything
            why = f"backend {self.name} failed to judge this request ({type(error).__name__}); tell its author"
            return [("backend", "BACKEND_BROKEN", why)]

    def estimate(
        self, effective_spec: dict[str, Any], seen: dict[str, Any], *, on_gpu: bool, tokens_per_second: float
    ) -> Estimate:
        """Its estimate; nothing is known where it has none, or fails to make one."""
        reckon = getattr(self._inner, "estimate", None)
        if not callable(reckon):
            return Estimate.nothing(f"backend {self.name} does not estimate")
        try:
            found = reckon(effective_spec, seen, on_gpu=on_gpu, tokens_per_second=tokens_per_second)
        except Exception as error:  # noqa: BLE001 - it may raise anything
            return Estimate.nothing(f"backend {self.name} failed to estimate ({type(error).__name__})")
        return found if isinstance(found, Estimate) else Estimate.nothing(f"backend {self.name} made no estimate")

    def command(self, python: str, attempt_dir: str) -> list[str]:
        """Its argv.

        Raises:
            BackendError: it fails to say, or says something that is no argv.
        """
        try:
            argv = list(self._inner.command(python, attempt_dir))
        except Exception as error:
            raise BackendError(f"backend {self.name} failed to say how it is started: {_words(error)}") from error
        if not argv or not all(isinstance(part, str) for part in argv):
            raise BackendError(f"backend {self.name} is not started by a list of words")
        return argv


def discovered(taken: Collection[str]) -> tuple[dict[str, Backend], tuple[Broken, ...]]:
    """Every usable engine of others by name, and what was skipped.

    Args:
        taken: names that are ours.
    """
    return loaded(sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)), taken)


def loaded(points: Iterable[EntryPoint], taken: Collection[str]) -> tuple[dict[str, Backend], tuple[Broken, ...]]:
    """The same of given entry points; of two with one name, the first is taken."""
    found: dict[str, Backend] = {}
    broken: list[Broken] = []
    for point in points:
        try:
            backend = _made(point, {*taken, *found})
        except Exception as error:  # noqa: BLE001 - its module may do anything while it is imported
            distribution = point.dist.name if point.dist is not None else ""
            broken.append(Broken(f"{point.name} = {point.value}", distribution, _words(error)))
        else:
            found[backend.name] = backend
    return found, tuple(broken)


def _made(point: EntryPoint, taken: Collection[str]) -> Guarded:
    made = point.load()
    backend = Guarded(made() if isinstance(made, type) else made)
    if backend.name in taken:
        raise NoEngine(f"there is a backend {backend.name} already")
    return backend


def _words(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
