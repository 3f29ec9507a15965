"""By whose leave a storage is used: the agent's own credentials, or a role of the request that they assume.

Nothing here imports boto3: the agent makes an Access and hands it, as JSON, to the child that moves bytes.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_IN_A_SESSION_NAME = re.compile(r"[^A-Za-z0-9_+=,.@-]")
_SESSION_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """How this platform reaches object stores; None: as boto3 finds it (AWS, unless its own configuration differs).

    Attributes:
        s3_endpoint: URL of an S3-compatible store; buckets are then addressed by path.
        sts_endpoint: URL of the service that gives out role sessions.
        region: where neither is told, `us-east-1`.
        ca_bundle: PEM file of the authorities that the endpoints' certificates are checked against.
        s3_checksums: whether the store is told a CRC of each content and keeps it; None: where no `s3_endpoint` is set.
        role_session_seconds: how long a role's session lives; it is assumed anew in its last quarter of an hour.
        silence_seconds: how long a store may send nothing before a request counts as lost.
        request_tries: of one request, with full jitter below 1, 2, 4 … 20 s between them.
    """

    s3_endpoint: str | None = None
    sts_endpoint: str | None = None
    region: str | None = None
    ca_bundle: str | None = None
    s3_checksums: bool | None = None
    role_session_seconds: int = 3600
    silence_seconds: float = 60.0
    request_tries: int = 6


@dataclass(frozen=True, slots=True)
class Access:
    """Who asks a storage, and which field of the request a refusal is told to.

    Attributes:
        session_name: named after the job, for the store's own audit trail; see `session_name`.
        role_arn: the role to assume; None: the agent's own credentials.
        field: the spec's field with the URI, as `datasets[0].source`.
        settings: the platform's.
    """

    session_name: str = "trainplane"
    role_arn: str | None = None
    field: str = "artifacts.output_uri"
    settings: StorageSettings = StorageSettings()

    @property
    def role_field(self) -> str:
        """The spec's field with the role, as `datasets[0].auth.role_arn`."""
        return f"{self.field.rpartition('.')[0]}.auth.role_arn"

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `parse` reads back."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Access:
        """Read what `to_json` made.

        Raises:
            TypeError: an unknown or missing name.
        """
        return cls(**{**document, "settings": StorageSettings(**document["settings"])})


def session_name(job_id: str) -> str:
    """A role session's name for a job: 2 to 64 of the characters that STS allows."""
    return _NOT_IN_A_SESSION_NAME.sub("-", job_id)[:_SESSION_NAME_LENGTH].ljust(2, "-")


def ambient(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The agent's own AWS variables, for a child that moves bytes: by its job line, not by its environment.

    A trainer never gets them. Credentials in `~/.aws` or from the instance need no variable.
    """
    return {name: value for name, value in own.items() if name.startswith("AWS_")}


def adopt_ambient(variables: Mapping[str, str]) -> None:
    """In the child: let boto3 find what `ambient` found. What the kernel shows of the environment stays as it was."""
    os.environ.update(variables)
