"""What is free on a node, and whether it is what a job needs there. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.job import Requirement
    from controlplane.domain.node import Gpu, Node


@dataclass(frozen=True, slots=True)
class Capacity:
    """A node with what is free on it."""

    node: Node
    gpus: tuple[Gpu, ...]
    cpus: int
    memory_bytes: int

    def less(self, chosen: Placement, need: Requirement) -> Capacity:
        """The same after a job took its share, if it has one here."""
        share = next((each for each in chosen.shares if each.node == self.node.name), None)
        if share is None:
            return self
        return replace(
            self,
            gpus=tuple(g for g in self.gpus if g.index not in share.devices),
            cpus=self.cpus - need.cpus,
            memory_bytes=self.memory_bytes - need.memory_bytes,
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job goes: a node, or the first of several."""

    node: str
    devices: tuple[int, ...]
    others: tuple[Placement, ...] = ()
    """The further nodes of a gang."""

    @property
    def shares(self) -> tuple[Placement, ...]:
        """One for each node, the first first."""
        return (self, *self.others)


_WORD = re.compile(r"[a-z0-9]+")


def matches(wanted: str, device: str) -> bool:
    """Whether all words of `gpu_type` occur in the device's name, any case: `A100-80GB` in `NVIDIA A100-SXM4-80GB`."""
    words = set(_WORD.findall(device.lower()))
    return all(word in words for word in _WORD.findall(wanted.lower()))


def usable(need: Requirement, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Those of the type that is asked for, large enough; one whose memory is not known is taken to be."""
    of_kind = [g for g in gpus if matches(need.gpu_type, g.type)] if need.gpu_type else gpus
    return [g for g in of_kind if not 0 < g.memory_bytes < need.device_bytes]


def suits(need: Requirement, node: Node) -> bool:
    """Whether the node is of the right kind, its size aside."""
    return (
        node.inventory.runner == need.runner
        and (not need.node or node.name == need.node)
        and all(node.inventory.labels.get(k) == v for k, v in need.labels.items())
    )


def fits(need: Requirement, *, gpus: Sequence[Gpu], cpus: int, memory_bytes: int) -> bool:
    """Whether so much is enough."""
    return len(usable(need, gpus)) >= need.gpus and cpus >= need.cpus and memory_bytes >= need.memory_bytes


def plural(count: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
