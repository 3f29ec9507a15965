"""The contract of a training engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trainplane.backends.disk import Written
    from trainplane.backends.estimate import Estimate

#: (field, reason, description): what an engine refuses in a spec; `field` is a path from the spec's top.
Finding = tuple[str, str, str]


class BackendError(Exception):
    """An engine cannot say how it is started; the text is fit for the job's owner."""


class Backend(Protocol):
    """A training engine: torch-free, pure, cheap to ask (every submit does). docs/backends.md says how to add one."""

    @property
    def name(self) -> str:
        """The word that chooses it in `backend`: 1 to 63 of a-z 0-9 _ -, the first a letter."""

    @property
    def description(self) -> str:
        """What it does, in a sentence."""

    def schema(self) -> dict[str, Any]:
        """What `backend_options` may be, as JSON Schema (draft 2020-12): for editors and for `GET /backends`."""

    def validate(self, effective_spec: dict[str, Any]) -> list[Finding]:
        """What it refuses in a spec that is otherwise right, `backend_options` above all; never raises."""

    def command(self, python: str, attempt_dir: str) -> list[str]:
        """The argv that trains an attempt, as docs/trainer-contract.md says. Holds no secret.

        Args:
            python: the interpreter that has the engine's libraries.
            attempt_dir: the attempt's directory, absolute.

        Raises:
            BackendError: it cannot be started.
        """


class Spreading(Protocol):
    """What an engine may have besides: without it, its jobs are never given several nodes."""

    @property
    def several_nodes(self) -> bool:
        """Whether its trainers, started on several nodes with an assignment that has a `gang`, train together."""


class Bounding(Protocol):
    """What an engine may have besides: without it, a job waits for no larger device than it asks for."""

    def least_device_bytes(self, effective_spec: dict[str, Any], seen: dict[str, Any]) -> float:
        """The memory without which no training begins on a GPU, however short its rows; 0: not known. Never raises.

        Args:
            effective_spec: every default filled in.
            seen: what a node has seen of the model (docs/backends.md).
        """


class Writing(Protocol):
    """What an engine may have besides: without it, whether a node's disk has room is seen when it is full."""

    def least_disk(self, effective_spec: dict[str, Any], seen: dict[str, Any]) -> Written | None:
        """What its trainer writes to its node's disk at least, by what it is; None: not known. Never raises.

        Args:
            effective_spec: every default filled in.
            seen: what a node has seen of the model (docs/backends.md).
        """


class Estimating(Protocol):
    """What an engine may have besides: without it, a preflight says that its needs are unknown."""

    def estimate(
        self, effective_spec: dict[str, Any], seen: dict[str, Any], *, on_gpu: bool, tokens_per_second: float
    ) -> Estimate:
        """What a training takes; what is unknown is None and says why; never raises for a spec that `validate` takes.

        Args:
            effective_spec: every default filled in.
            seen: what a node has seen of model and datasets (docs/backends.md).
            on_gpu: whether the devices are GPUs.
            tokens_per_second: of jobs of this model and method on such a device; 0: there are none.
        """
