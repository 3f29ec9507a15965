"""Where `up` keeps what, below its data directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one installation; making none of them."""

    data_dir: Path

    @property
    def lock(self) -> Path:
        """Held by the `up` that runs here, for as long as it runs."""
        return self.data_dir / "up.lock"

    @property
    def up_json(self) -> Path:
        """Addresses and pids; there only while everything is ready."""
        return self.data_dir / "up.json"

    @property
    def children_json(self) -> Path:
        """Every process started, as soon as it is: what the next `up` ends if this one was killed."""
        return self.data_dir / "children.json"

    def log(self, name: str) -> Path:
        """What one child prints."""
        return self.data_dir / "logs" / f"{name}.log"

    @property
    def nats_keys(self) -> Path:
        """The installation's NATS keys: secret."""
        return self.data_dir / "keys" / "nats.json"

    @property
    def master_key(self) -> Path:
        """The control plane's key, which seals secrets in the database: secret, and kept out of it."""
        return self.data_dir / "keys" / "master.key"

    def credentials(self, user: str) -> Path:
        """One NATS user's credentials: secret."""
        return self.data_dir / "keys" / f"{user}.creds"

    @property
    def nats_config(self) -> Path:
        """nats-server's rendered configuration."""
        return self.data_dir / "nats" / "nats.conf"

    @property
    def nats_store(self) -> Path:
        """JetStream's files."""
        return self.data_dir / "nats" / "store"

    @property
    def database(self) -> Path:
        """The truth."""
        return self.data_dir / "trainplane.db"

    @property
    def control_plane(self) -> Path:
        """The control plane's other files."""
        return self.data_dir / "controlplane"

    @property
    def outputs(self) -> Path:
        """Where jobs publish that name no `artifacts.output_uri`, each in a folder of its own."""
        return self.data_dir / "outputs"

    @property
    def agent(self) -> Path:
        """The local agent's journal and attempts."""
        return self.data_dir / "agent"
