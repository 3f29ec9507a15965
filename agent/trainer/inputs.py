"""`inputs.json`: where the agent has put the model and the datasets that it fetched for this attempt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import ConfigInvalid
from agent.trainer.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model on this node's disk, and what it is called elsewhere."""

    path: str
    name: str
    """`owner/name` on the hub: what outputs call it, never the path."""
    commit: str
    """The hub's commit; empty where there is none."""


@dataclass(frozen=True, slots=True)
class FetchedDataset:
    """A dataset on this node's disk: a file, or a directory of files that are read in the order of their names."""

    path: str
    commit: str = ""
    """The hub's commit; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was fetched."""

    model: FetchedModel
    datasets: tuple[FetchedDataset, ...]
    """In the order of the spec's."""


def read_inputs(attempt_directory: Path) -> Inputs | None:
    """The inputs; None if nothing had to be fetched.

    Raises:
        ConfigInvalid: the file is there and not what the contract says.
    """
    try:
        document = json.loads((attempt_directory / "inputs.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"inputs.json cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigInvalid("inputs.json is not a JSON object")
    return _parsed(document)


def _parsed(document: Mapping[str, Any]) -> Inputs:
    top = Fields(document, "inputs.json")
    model = top.block("model")
    datasets = [FetchedDataset(each.text("path"), each.text("commit", "")) for each in top.blocks("datasets")]
    return Inputs(
        model=FetchedModel(path=model.text("path"), name=model.text("name"), commit=model.text("commit", "")),
        datasets=tuple(datasets),
    )
