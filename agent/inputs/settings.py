"""Where inputs come from, and how much of them a node keeps: the agent's settings, as the child is told them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLIC_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class InputSettings:
    """This platform's sources and this node's cache.

    Attributes:
        cache_dir: where models are kept for all jobs of a project.
        cache_bytes: how much the cache may hold; what jobs use now is kept beyond it.
        hub_endpoint: URL of the model hub, or of a mirror of it.
        hub_token_file: file with the platform's own hub token, for jobs without one.
        ca_bundle: PEM file of authorities to trust beside the system's.
        allowed_hosts: names, or `*.name`, that https downloads may reach whatever their addresses are.
        allowed_networks: networks beside the public internet that https downloads may reach.
        model_roots: directories below which a model of this node may lie; empty: anywhere.
    """

    cache_dir: str
    cache_bytes: int
    hub_endpoint: str = PUBLIC_HUB
    hub_token_file: str | None = None
    ca_bundle: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_networks: tuple[str, ...] = ()
    model_roots: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `parse` reads back."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> InputSettings:
        """Read what `to_json` made.

        Raises:
            TypeError: an unknown or missing name.
        """
        several = {name: tuple(document[name]) for name in ("allowed_hosts", "allowed_networks", "model_roots")}
        return cls(**{**document, **several})
