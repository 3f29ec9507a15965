"""The agent's settings: one frozen tree, read once, from the command line, then the environment, then a TOML file."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from agent.devices import Inventory, declared, found, parse_stand_in
from agent.inputs.settings import PUBLIC_HUB, InputSettings
from agent.storage.access import StorageSettings
from trainplane.addresses import OutboundRules
from trainplane.wire import subjects

ENV_PREFIX = "TRAINPLANE_AGENT_"


class Settings(BaseSettings):
    """What an agent is told. Each is also `TRAINPLANE_AGENT_<NAME>`; lists and maps are JSON there."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    nats: str = "nats://127.0.0.1:4222"
    """URL of the NATS server. Without a user or password in it: those stand in the credentials file."""

    node: str = Field(default_factory=socket.gethostname)
    """This node's name, 1 to 63 of A-Z a-z 0-9 _ -, the one that the credentials allow. Default: the host's name."""

    credentials: Path | None = None
    """NATS credentials file (`.creds`) of this node's user. Without one only a server that asks for none is of use."""

    data_dir: Path = Path("~/.local/share/trainplane/agent")
    """Where attempts live, with logs and outputs until they are shipped. One agent per directory; a local disk."""

    gpus: str | None = None
    """Stand in for GPUs, as `4xA100`; `0` for none. The whole inventory is then declared; trainers run on the CPU."""

    cpus: int | None = Field(default=None, ge=1)
    """CPU cores to offer: at most those found, or with `gpus` those declared (default 32)."""

    memory_gb: float | None = Field(default=None, gt=0)
    """GiB of memory to offer: at most what was found, or with `gpus` what is declared (default 256)."""

    labels: dict[str, str] = Field(default_factory=dict)
    """The operator's key-value pairs, which `placement.labels` of a job can ask for."""

    model_root: tuple[Path, ...] = ()
    """Directories below which a job's local base model must lie; none given: anywhere that this user can read."""

    s3_endpoint: str | None = None
    """URL of an S3-compatible store, whose buckets are then addressed by path. Default: AWS, or what `AWS_*` says."""

    sts_endpoint: str | None = None
    """URL of the service that gives out the sessions of the roles that requests name. Default: AWS' own."""

    s3_region: str | None = None
    """Region of the store. Default: what `AWS_*` or the AWS configuration says, else `us-east-1`."""

    s3_checksums: bool | None = None
    """Whether the store is told a CRC of each content, and keeps it. Default: AWS is, no store at an `s3_endpoint`."""

    ca_bundle: Path | None = None
    """PEM file of the authorities that the endpoints' certificates are checked against. Default: the system's."""

    storage_patience: timedelta = timedelta(minutes=30)
    """How long a finished output waits for a store that does not answer, before the attempt is STORAGE_UNAVAILABLE."""
    hub_endpoint: str = Field(default_factory=lambda: os.environ.get("HF_ENDPOINT") or PUBLIC_HUB)
    """URL of the model hub, or of a mirror of it. Default: `HF_ENDPOINT`, else the public one."""

    hub_token_file: Path | None = None
    """File with the platform's own hub token: every job without `base_model.auth_token` then reads what it may read."""

    cache_dir: Path | None = None
    """Where models of the hub are kept for all jobs of a project. Default: `cache` in `data_dir`."""

    cache_gb: float = Field(default=200, gt=0)
    """GiB of models to keep: above, the longest unused go first. What jobs use stays; no download may be larger."""

    allowed_hosts: tuple[str, ...] = ()
    """Names, or `*.name`, that `base_model.weights_url` may lead to although their addresses are not public."""

    allowed_networks: tuple[str, ...] = ()
    """Networks that it may lead to beside the public internet, as `10.0.0.0/8`."""

    warm_trainers: bool | None = None
    """Keep one process, some 360 MB, that has imported what trainers need, and fork them from it: they begin in a third
    of a second instead of five. Default: if torch is installed, and 8 GB or more are offered, not merely declared."""

    backend_python: dict[str, Path] = Field(default_factory=dict)
    """Backend -> the Python of the environment that its trainers run in. Those not named run in the agent's own."""

    rendezvous_address: str = ""
    """Name or IP address by which other nodes reach trainers here, for jobs on several nodes. Default: the one by which
    it reaches NATS, unless that is a loopback address; then the node takes part in no such job."""

    grace: timedelta = timedelta(seconds=10)
    """How long a trainer that was told to stop may take, before every process of its attempt is killed."""

    checkpoint_grace: timedelta = Field(default=timedelta(seconds=30), ge=timedelta(0))
    """How long a trainer may take for the step that it is in and a last checkpoint, before it ends for a stop (not for
    a cancel, which does not wait) or at its deadline. Not below what a step and a checkpoint take. 0: none is made."""

    deadline_grace: timedelta = timedelta(seconds=30)
    """How long after its deadline, and `checkpoint_grace`, a trainer that did not end itself is killed."""

    stall_timeout: timedelta = Field(default=timedelta(minutes=30), ge=timedelta(0))
    """How long a trainer may show no progress before it is ended as STALLED, its stacks in the log. Longer than what
    shows none: importing torch, one micro-batch. 0: for ever."""

    answer_timeout: timedelta = timedelta(seconds=5)
    """How long the control plane may take to answer, its commit included, before it is asked again."""

    end_trainers_on_exit: bool = False
    """End all trainers when the agent is told to end. Otherwise they live on, and the next agent takes them back."""

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
            raise ValueError("must not hold a user or password; use credentials")
        return url

    @field_validator("s3_endpoint", "sts_endpoint", "hub_endpoint")
    @classmethod
    def _endpoint_is_a_bare_url(cls, url: str | None) -> str | None:
        if url is not None and (not url.startswith(("http://", "https://")) or "@" in url):
            raise ValueError("must be http://host or https://host, without a user or password")
        return url

    @field_validator("node")
    @classmethod
    def _node_is_a_token(cls, node: str) -> str:
        subjects.wake(node)
        return node

    @field_validator("gpus")
    @classmethod
    def _gpus_are_readable(cls, gpus: str | None) -> str | None:
        if gpus is not None:
            parse_stand_in(gpus)
        return gpus

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        OutboundRules.of(networks=networks)
        return networks

    @field_validator("data_dir", "credentials", "ca_bundle", "hub_token_file", "cache_dir", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("backend_python")
    @classmethod
    def _are_interpreters(cls, paths: dict[str, Path]) -> dict[str, Path]:
        """Made absolute, and links in them kept: a virtual environment's Python is a link."""
        absolute = {backend: path.expanduser().absolute() for backend, path in paths.items()}
        for backend, path in absolute.items():
            if not path.is_file() or not os.access(path, os.X_OK):
                raise ValueError(f"{path}, named for {backend}, is no program that can be run")
        return absolute

    @field_validator("ca_bundle")
    @classmethod
    def _is_readable(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read")
        return path

    def inventory(self) -> Inventory:
        """What the node offers by these settings; asks the driver and the kernel unless declared."""
        offered = {"cpus": self.cpus, "memory_gb": self.memory_gb, "labels": self.labels}
        if self.gpus is None:
            return found(**offered)  # type: ignore[arg-type]
        return declared(parse_stand_in(self.gpus), **offered)  # type: ignore[arg-type]

    def storage(self) -> StorageSettings:
        """How this node reaches object stores."""
        return StorageSettings(
            s3_endpoint=self.s3_endpoint,
            sts_endpoint=self.sts_endpoint,
            region=self.s3_region,
            s3_checksums=self.s3_checksums,
            ca_bundle=None if self.ca_bundle is None else str(self.ca_bundle),
        )

    def inputs(self) -> InputSettings:
        """Where inputs come from, and how much of them this node keeps."""
        return InputSettings(
            cache_dir=str(self.cache_dir or self.data_dir / "cache"),
            cache_bytes=int(self.cache_gb * 2**30),
            hub_endpoint=self.hub_endpoint.rstrip("/"),
            hub_token_file=None if self.hub_token_file is None else str(self.hub_token_file),
            ca_bundle=None if self.ca_bundle is None else str(self.ca_bundle),
            allowed_hosts=self.allowed_hosts,
            allowed_networks=self.allowed_networks,
            model_roots=tuple(map(str, self.model_root)),
        )

    def shown(self) -> dict[str, Any]:
        """The settings for the log. None is secret: the credentials file's path is, its content is not read here."""
        return self.model_dump(mode="json", exclude_none=True)


def load(overrides: dict[str, Any], *, toml: Path | None = None) -> Settings:
    """Read the settings.

    Args:
        overrides: what the command line says.
        toml: a settings file.

    Raises:
        pydantic.ValidationError: a value is wrong, or a key is unknown.
        FileNotFoundError: there is no such file.
    """
    if toml is None:
        return Settings(**overrides)
    toml.stat()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=toml)

    return FromFile(**overrides)
