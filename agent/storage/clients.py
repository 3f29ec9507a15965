"""Clients of S3 with the credentials of an Access: the agent's own, or those of a role that they assume.

A role's session is assumed at the first request and anew before it ends, by botocore's own refreshing credentials. One
that the store calls expired all the same (a clock, a revocation) is dropped by `renew`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, cast

import boto3
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials
from botocore.session import Session

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sts import STSClient

    from agent.storage.access import Access

_DEFAULT_REGION = "us-east-1"
_CONNECT_SECONDS = 10


class Clients:
    """Makes the client once, and anew after `renew`. May be shared by threads."""

    def __init__(self, access: Access, *, connections: int) -> None:
        self._access = access
        self._connections = connections
        self._lock = threading.Lock()
        self._s3: S3Client | None = None

    def s3(self) -> S3Client:
        """The client. Asks nobody; credentials are looked for at the first request."""
        with self._lock:
            if self._s3 is None:
                self._s3 = self._made()
            return self._s3

    def renew(self) -> None:
        """Use new credentials from the next call of `s3` on."""
        with self._lock:
            self._s3 = None

    def _made(self) -> S3Client:
        settings = self._access.settings
        own = Session()
        region = settings.region or own.get_config_variable("region") or _DEFAULT_REGION
        session = own
        if self._access.role_arn:
            sts = boto3.Session(botocore_session=own, region_name=region).client(
                "sts", endpoint_url=settings.sts_endpoint, verify=settings.ca_bundle, config=self._config()
            )
            session = Session()
            provider = _RoleProvider(sts, self._access)
            session.register_component("credential_provider", CredentialResolver([provider]))
        # A signed payload is one whose SHA-256 goes along: the store checks it, whichever store it is.
        how: dict[str, Any] = {"payload_signing_enabled": True}
        if settings.s3_endpoint:
            how["addressing_style"] = "path"
        made: S3Client = boto3.Session(botocore_session=session, region_name=region).client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            verify=settings.ca_bundle,
            config=self._config().merge(Config(s3=cast("Any", how))),
        )
        return made

    def _config(self) -> Config:
        settings = self._access.settings
        kept = not settings.s3_endpoint if settings.s3_checksums is None else settings.s3_checksums
        checksums: Literal["when_supported", "when_required"] = "when_supported" if kept else "when_required"
        return Config(
            retries={"mode": "standard", "total_max_attempts": settings.request_tries},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=settings.silence_seconds,
            max_pool_connections=self._connections,
            tcp_keepalive=True,
            # Bodies are signed (_made) and contents proven by the manifest; not every store knows these CRCs.
            request_checksum_calculation=checksums,
            response_checksum_validation="when_required",
        )


class _RoleProvider(CredentialProvider):
    """Credentials of a role, which refresh themselves."""

    METHOD = "trainplane-assume-role"
    CANONICAL_NAME = METHOD

    def __init__(self, sts: STSClient, access: Access) -> None:
        super().__init__()
        self._sts = sts
        self._access = access

    def load(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(refresh_using=self._assume, method=self.METHOD)

    def _assume(self) -> dict[str, str]:
        answer = self._sts.assume_role(
            RoleArn=str(self._access.role_arn),
            RoleSessionName=self._access.session_name,
            DurationSeconds=self._access.settings.role_session_seconds,
        )["Credentials"]
        return {
            "access_key": answer["AccessKeyId"],
            "secret_key": answer["SecretAccessKey"],
            "token": answer["SessionToken"],
            "expiry_time": answer["Expiration"].isoformat(),
        }
