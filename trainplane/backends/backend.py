"""The contract of a training engine."""

from __future__ import annotations

from typing import Any, Protocol

#: (field, reason, description): what an engine refuses in a spec; `field` is a path from the spec's top.
Finding = tuple[str, str, str]


class Backend(Protocol):
    """A training engine: torch-free, pure, cheap to ask (every submit does)."""

    @property
    def name(self) -> str:
        """The word that chooses it in `backend`."""

    def validate(self, effective_spec: dict[str, Any]) -> list[Finding]:
        """What it refuses in a spec that is otherwise right, `backend_options` above all; never raises."""

    def command(self, python: str, attempt_dir: str) -> list[str]:
        """The argv that trains an attempt, as docs/trainer-contract.md says. Holds no secret.

        Args:
            python: the interpreter that has the engine's libraries.
            attempt_dir: the attempt's directory, absolute.
        """
