"""What a failed call to S3 or STS means: a StorageError whose text names the request's field, the cause and the remedy.

An expired session is told apart (`is_expired`): it is renewed, not reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from s3transfer import exceptions as transfer

from agent.storage.errors import (
    BucketNotFoundError,
    ObjectNotFoundError,
    StorageDeniedError,
    StorageError,
    StorageMisusedError,
)

if TYPE_CHECKING:
    from agent.storage.access import Access

#: Everything that a call through boto3 raises for reasons of the store, the network or the credentials.
FAILURES = (
    boto.BotoCoreError,
    boto.ClientError,
    Boto3Error,
    transfer.RetriesExceededError,
    transfer.S3UploadFailedError,
    transfer.S3DownloadFailedError,
    transfer.S3CopyFailedError,
    transfer.S3ValidationError,
)

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidTokenId"}
#: Answers to a key that is wrong, and not to one that may not: no permission mends them.
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
)
_MISUSES = (
    boto.ParamValidationError,
    boto.InvalidRegionError,
    boto.UnknownEndpointError,
    boto.ConfigParseError,
)
#: 4xx answers that say nothing against the request itself.
_PASSING = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InvalidPart",
    "InternalError",
    "NoSuchUpload",
    "OperationAborted",
    "PreconditionFailed",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_PERMISSIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "CopyObject": "s3:GetObject and s3:PutObject",
    "UploadPartCopy": "s3:GetObject and s3:PutObject",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObjects": "s3:DeleteObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
}
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Place:
    """What was asked for, for the words of a refusal."""

    bucket: str
    key: str
    access: Access

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def identity(self) -> str:
        """Who asked."""
        return self.access.role_arn or "the agent's own credentials"


def is_expired(error: Exception) -> bool:
    """Whether new credentials might mend it."""
    error = _cause(error)
    return isinstance(error, boto.ClientError) and _code(error) in _EXPIRED


def translate(error: Exception, place: Place) -> StorageError:
    """The storage error that a failed call amounts to; for those of FAILURES."""
    error = _cause(error)
    field = place.access.field
    if isinstance(error, boto.ClientError):
        if error.operation_name == "AssumeRole":
            return _of_role(error, place)
        return _of_answer(error, place)
    if isinstance(error, _NO_CREDENTIALS):
        return StorageDeniedError(
            f"{field}: {place}: the agent has no credentials of its own ({error}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the agent's environment, or give its host a profile or an instance role"
        )
    if isinstance(error, _MISUSES):
        return StorageMisusedError(f"{field}: {place}: {error}")
    if isinstance(error, boto.SSLError):
        return StorageError(f"{field}: {place}: {error}; the agent's setting ca_bundle names whom to trust")
    return StorageError(f"{field}: {place}: {str(error)[:_LONGEST_MESSAGE] or type(error).__name__}")


def _of_role(error: boto.ClientError, place: Place) -> StorageError:
    said = _said(error)
    if _status(error) >= 500 or _code(error) in _PASSING:
        return StorageError(f"{place.access.role_field}: {place.access.role_arn} cannot be assumed now: {said}")
    if remedy := _of_own_key(error):
        return StorageDeniedError(f"{place.access.role_field}: {place.access.role_arn}: {said}: {remedy}")
    return StorageDeniedError(
        f"{place.access.role_field}: {place.access.role_arn}: {said}: let the agent's own identity assume this role "
        "(sts:AssumeRole, in the role's trust policy too), or name another"
    )


def _of_answer(error: boto.ClientError, place: Place) -> StorageError:
    code, status, said, field = _code(error), _status(error), _said(error), place.access.field
    if code == "NoSuchBucket":
        at = place.access.settings.s3_endpoint
        return BucketNotFoundError(
            f"{field}: bucket {place.bucket!r} does not exist{f' at {at}' if at else ''}: create it, or name another"
        )
    if code in _PASSING:
        return StorageError(f"{field}: {place}: {said}")
    if code == "NoSuchKey" or status == 404:
        return ObjectNotFoundError(f"{field}: {place} does not exist: {said}")
    if status in {401, 403} or code in _EXPIRED or code in {"AccessDenied", "InvalidAccessKeyId"}:
        return StorageDeniedError(f"{field}: {place}: {said}: {_of_own_key(error) or _permission(error, place)}")
    if status in {301, 307, 400, 405, 411, 413, 414, 501}:
        return StorageMisusedError(f"{field}: {place}: {said}")
    return StorageError(f"{field}: {place}: {said}")


def _permission(error: boto.ClientError, place: Place) -> str:
    """What helps where the credentials are right and may not do it."""
    need = _PERMISSIONS.get(error.operation_name, "s3:PutObject")
    otherwise = "" if place.access.role_arn else f", or name a role that may in {place.access.role_field}"
    return f"allow {need} there to {place.identity}{otherwise}"


def _of_own_key(error: boto.ClientError) -> str:
    """What helps where it is the credentials themselves that are refused, or the time that they were used at."""
    code = _code(error)
    if code in _CLOCK:
        return "set the clock of the agent's host"
    if code in _EXPIRED:
        return "the agent's credentials have expired: renew AWS_SESSION_TOKEN and its key, or give its host a role"
    if code in _WRONG_KEY:
        return "the agent's AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not those of this store: correct them"
    return ""


def _cause(error: Exception) -> Exception:
    """What was the matter with the last of a managed transfer's own tries."""
    last = getattr(error, "last_exception", None)
    return last if isinstance(last, Exception) else error


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _said(error: boto.ClientError) -> str:
    message = str(error.response.get("Error", {}).get("Message", ""))[:_LONGEST_MESSAGE]
    return f"{_code(error) or _status(error)} on {error.operation_name} ({message})"
