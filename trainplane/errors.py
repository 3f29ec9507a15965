"""What a call may raise: the one tree of the client's exceptions.

    TrainplaneError
    ├── Refused                     the control plane answered no; repeating the same call gets the same answer
    │   ├── InvalidRequest          `violations`: everything that is wrong, at once
    │   ├── JobNotFound
    │   ├── JobExists               `differing`: the paths at which the existing job's spec differs
    │   ├── PreconditionFailed      the job's state does not allow it, or a live job uses the output
    │   ├── Unauthenticated         no credential, or one that is not known
    │   ├── PermissionDenied
    │   └── ResourceExhausted       `retry_after`: over a limit; nothing was done
    ├── Unavailable                 `retry_after`: nobody answered; whether it took effect may be unknown
    └── ServerError                 a fault of the control plane; its log has `request_id`

They are rebuilt from `google.rpc.Status` and its details (BadRequest, ErrorInfo, RetryInfo). All of them are about a
*call*: a job that failed is no exception, its reason is data in the job. `str(error)` is fit for a user's eyes.
"""

# ruff: noqa: N818 - these names say what happened ("JobNotFound"); every one is an error, so the suffix says nothing

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.rpc.status_pb2 import Status


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request.

    Attributes:
        field: the path as the user wrote it, with indices (`datasets[1].source`); empty for the whole body.
        reason: a stable UPPER_SNAKE word for machines.
        description: what is wrong and what would be right.
    """

    field: str
    reason: str
    description: str


@dataclass(frozen=True, slots=True)
class Details:
    """What came with an error beside its code and message.

    Attributes:
        reason: a stable UPPER_SNAKE word; empty if the control plane itself did not make the error.
        metadata: ErrorInfo's, e.g. `request_id`.
        violations: what BadRequest listed.
        retry_after: what RetryInfo asked for.
    """

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    retry_after: timedelta | None = None


class TrainplaneError(Exception):
    """Root of the tree. `reason` is stable: branch on it, or on the class."""

    def __init__(self, message: str, details: Details | None = None) -> None:
        super().__init__(message)
        self.details = details or Details()

    @property
    def reason(self) -> str:
        """A stable UPPER_SNAKE word; empty if the connection failed and not the call."""
        return self.details.reason

    @property
    def request_id(self) -> str:
        """By which the control plane's log names the call; empty if unknown."""
        return self.details.metadata.get("request_id", "")

    @property
    def retry_after(self) -> timedelta | None:
        """When to try again, if the control plane said so."""
        return self.details.retry_after


class Refused(TrainplaneError):
    """The control plane answered no, and nothing was changed."""


class InvalidRequest(Refused):
    """The request is wrong; `violations` holds all that is wrong with it."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Everything that is wrong, in the request's order; may be empty if the error came from a proxy."""
        return tuple(self.details.violations)


class JobNotFound(Refused):
    """There is no such job, or it is another project's: the two look the same."""


class JobExists(Refused):
    """The job_id is taken by a job with another spec."""

    @property
    def differing(self) -> tuple[str, ...]:
        """The paths at which the two specs differ."""
        return tuple(path.strip() for path in self.details.metadata.get("differing", "").split(",") if path.strip())


class PreconditionFailed(Refused):
    """A job's state does not allow what was asked; the message names the job or the state.

    `reason` is `MOVE_NOT_ALLOWED`, or `OUTPUT_IN_USE`: a live job publishes where the submitted one would.
    """


class Unauthenticated(Refused):
    """The call carried no credential, or one that the control plane does not know (`TRAINPLANE_TOKEN`)."""


class PermissionDenied(Refused):
    """The credential's role does not allow it."""


class ResourceExhausted(Refused):
    """The caller is over a limit."""


class Unavailable(TrainplaneError):
    """Nobody answered in time, or the control plane cannot do it now."""


class ServerError(TrainplaneError):
    """A fault of the control plane, or of something between it and us."""


#: By the numbers of google.rpc.Code, which are gRPC's.
_CLASSES: dict[int, type[TrainplaneError]] = {
    3: InvalidRequest,  # INVALID_ARGUMENT
    4: Unavailable,  # DEADLINE_EXCEEDED
    5: JobNotFound,  # NOT_FOUND
    6: JobExists,  # ALREADY_EXISTS
    7: PermissionDenied,
    8: ResourceExhausted,
    9: PreconditionFailed,  # FAILED_PRECONDITION
    11: InvalidRequest,  # OUT_OF_RANGE
    14: Unavailable,
    16: Unauthenticated,
}


def from_status(status: Status) -> TrainplaneError:
    """Rebuild the exception that a `google.rpc.Status` describes.

    Details of unknown types are ignored, so that a newer control plane may add some. A code that is not in the tree
    is a `ServerError`.
    """
    return _CLASSES.get(status.code, ServerError)(status.message, _details(status))


def _details(status: Status) -> Details:
    from google.rpc import error_details_pb2

    reason, metadata, violations, retry_after = "", {}, [], None
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(packed.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(packed.value)
            violations = [Violation(each.field, each.reason, each.description) for each in bad.field_violations]
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo.FromString(packed.value)
            retry_after = timedelta(seconds=retry.retry_delay.seconds, microseconds=retry.retry_delay.nanos / 1000)
    return Details(reason=reason, metadata=metadata, violations=violations, retry_after=retry_after)
