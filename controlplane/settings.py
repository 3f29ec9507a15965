"""The control plane's settings: one frozen tree, read once, from the command line, then the environment, then TOML."""

from __future__ import annotations

import os
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from controlplane.domain.spec import Rules
from trainplane.addresses import OutboundRules

ENV_PREFIX = "TRAINPLANE_CONTROLPLANE_"
LOOPBACK = ("127.0.0.0/8", "::1/128")


class Settings(BaseSettings):
    """What a control plane is told. Each is also `TRAINPLANE_CONTROLPLANE_<NAME>`; lists are JSON there."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    grpc_host: str = "127.0.0.1"
    """The address to listen on. Beyond loopback, everyone who reaches it may submit jobs: there are no tokens yet."""

    grpc_port: int = Field(default=50051, ge=0, le=65535)
    """The port to listen on; 0 takes any free one, which is printed."""

    nats: str = "nats://127.0.0.1:4222"
    """URL of the NATS server. Without a user or password in it: those stand in the credentials file."""

    nats_credentials: Path | None = None
    """NATS credentials file (`.creds`) of the control plane's user."""

    data_dir: Path = Path("~/.local/share/trainplane/controlplane")
    """Where logs of trainers are kept, and with SQLite the database."""

    database: str = ""
    """`sqlite:///<path>` or `postgresql://<user>@<host>/<name>`. Empty: SQLite in the data directory."""

    master_key: Path | None = None
    """File with 32 bytes in base64, mode 0600: seals secrets at rest. Made if absent; back it up apart from the
    database. None: `master.key` in the data directory."""

    dev: bool = False
    """Allow backend `mock`, the fake trainer, and serve gRPC reflection."""

    allow_loopback: bool = False
    """Let webhooks go to this machine's loopback: for `trainplane up`."""

    allowed_hosts: tuple[str, ...] = ()
    """Names that webhooks may go to whatever they resolve to: `hooks.internal`, or `*.internal` for all below it."""

    allowed_networks: tuple[str, ...] = ()
    """Networks that webhooks may go to beside the public internet, as `10.1.0.0/16`."""

    connect_to: dict[str, str] = Field(default_factory=dict)
    """Where a webhook's or status stream's host is really reached: `{"hooks.internal:443": "10.1.2.3:9443"}`. Needs no
    other permission; TLS still verifies the name in the URL."""

    ca_bundle: Path | None = None
    """PEM file of CA certificates that webhooks and status streams may be signed by, beside the system's."""

    default_output_uri: str = ""
    """Where a job without `artifacts.output_uri` publishes: `<this>/<job_id>/`. Empty: the field is required."""

    default_log_uri: str = ""
    """The same for `artifacts.log_uri`. Empty: such logs are kept by the control plane alone."""

    sync_interval: timedelta = Field(default=timedelta(seconds=3), ge=timedelta(milliseconds=50))
    """How often each node speaks at the least, in seconds."""

    node_grace: timedelta = Field(default=timedelta(seconds=30), gt=timedelta(0))
    """A node silent for so long is lost, in seconds; never less than three sync intervals."""

    ready_with_node: bool = False
    """Say `readiness` only once a node has synced: for `trainplane up`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the library's signature; no .env is read
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line over environment over file."""
        toml = TomlConfigSettingsSource(settings_cls, cls.model_config.get("toml_file"))
        return init_settings, env_settings, toml

    @field_validator("nats")
    @classmethod
    def _url_without_secret(cls, url: str) -> str:
        if "@" in url:
            raise ValueError("must not hold a user or password; use nats_credentials")
        return url

    @field_validator("database")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and not url.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("must be sqlite:///<path> or postgresql://<user>@<host>/<name>")
        return url

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        OutboundRules.of(networks=networks)
        return networks

    @field_validator("connect_to")
    @classmethod
    def _are_places(cls, connect_to: dict[str, str]) -> dict[str, str]:
        OutboundRules.of(connect_to=connect_to)
        return connect_to

    @field_validator("sync_interval", "node_grace", mode="before")
    @classmethod
    def _takes_seconds(cls, duration: object) -> object:
        try:
            return float(duration) if isinstance(duration, str) else duration
        except ValueError:
            return duration  # ISO 8601, which pydantic reads

    @field_validator("data_dir", "nats_credentials", "master_key", "ca_bundle", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("ca_bundle", mode="after")
    @classmethod
    def _holds_certificates(cls, bundle: Path | None) -> Path | None:
        if bundle is not None:
            _trusting(bundle)
        return bundle

    @property
    def database_url(self) -> str:
        """Where SQL is."""
        return self.database or f"sqlite:///{self.data_dir / 'trainplane.db'}"

    @property
    def master_key_path(self) -> Path:
        """Where the master key is."""
        return self.master_key or self.data_dir / "master.key"

    @property
    def grace(self) -> timedelta:
        """How long a node may be silent."""
        return max(self.node_grace, 3 * self.sync_interval)

    def outbound(self) -> OutboundRules:
        """Whom webhooks may reach."""
        loopback = LOOPBACK if self.allow_loopback else ()
        networks = (*self.allowed_networks, *loopback)
        return OutboundRules.of(hosts=self.allowed_hosts, networks=networks, connect_to=self.connect_to)

    def outbound_tls(self) -> ssl.SSLContext:
        """Whose certificates webhooks and status streams are believed by.

        Raises:
            ValueError: the bundle was changed since the settings were read, and cannot be used any more.
        """
        return _trusting(self.ca_bundle)

    def rules(self) -> Rules:
        """The platform's part in judging a spec."""
        return Rules(
            outbound=self.outbound(),
            dev_mode=self.dev,
            default_output_uri=self.default_output_uri,
            default_log_uri=self.default_log_uri,
        )

    def shown(self) -> dict[str, Any]:
        """The settings for the log; user, password and options in the database's URL are left out."""
        shown = self.model_dump(mode="json", exclude_none=True)
        scheme, _, rest = self.database_url.partition("://")
        shown["database"] = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
        return shown


def _trusting(bundle: Path | None) -> ssl.SSLContext:
    """A client's TLS that trusts the system's certificates and those of the file.

    Raises:
        ValueError: the file cannot be read, or holds none.
    """
    context = ssl.create_default_context()
    if bundle is None:
        return context
    try:
        context.load_verify_locations(cafile=bundle)
    except ssl.SSLError as error:
        raise ValueError(f"{bundle} holds no CA certificates in PEM") from error
    except OSError as error:
        raise ValueError(f"{bundle} cannot be read: {error.strerror}") from error
    return context


def load(overrides: dict[str, Any], *, toml: Path | None = None) -> Settings:
    """Reads the settings.

    Args:
        overrides: what the command line says.
        toml: a settings file.

    Raises:
        pydantic.ValidationError: a value is wrong, or a key of the file is unknown.
        FileNotFoundError: there is no such file.
        ValueError: the file is no TOML, or an environment variable of ours is unknown.
    """
    known = {f"{ENV_PREFIX}{name}".upper() for name in (*Settings.model_fields, "config")}
    unknown = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such setting")
    if toml is None:
        return Settings(**overrides)
    toml.stat()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=toml)

    return FromFile(**overrides)
