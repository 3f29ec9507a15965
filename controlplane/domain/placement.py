"""Which node a job runs on: all of its devices or none, and why not.

Best fit, so that big holes stay: among the nodes that can take a job, the one with the fewest GPUs left over wins, then
the fewest CPUs, then the name. Pure; what is charged comes in as a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controlplane.domain.node import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from controlplane.domain.attempt import Attempt
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
        """The same after a job took its share."""
        return replace(
            self,
            gpus=tuple(g for g in self.gpus if g.index not in chosen.devices),
            cpus=self.cpus - need.cpus,
            memory_bytes=self.memory_bytes - need.memory_bytes,
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job goes."""

    node: str
    devices: tuple[int, ...]


def capacities(nodes: Iterable[Node], charged: Iterable[Attempt]) -> list[Capacity]:
    """What is free on each node, after every charged attempt took its share (those of lost attempts too)."""
    by_node: dict[str, list[Attempt]] = {}
    for attempt in charged:
        by_node.setdefault(attempt.node, []).append(attempt)
    found = []
    for node in nodes:
        taken = by_node.get(node.name, [])
        devices = {index for attempt in taken for index in attempt.devices}
        found.append(
            Capacity(
                node=node,
                gpus=tuple(g for g in node.inventory.gpus if g.index not in devices),
                cpus=node.inventory.cpus - sum(a.cpus for a in taken),
                memory_bytes=node.inventory.memory_bytes - sum(a.memory_bytes for a in taken),
            )
        )
    return found


_WORD = re.compile(r"[a-z0-9]+")


def matches(wanted: str, device: str) -> bool:
    """Whether all words of `gpu_type` occur in the device's name, any case: `A100-80GB` in `NVIDIA A100-SXM4-80GB`."""
    words = set(_WORD.findall(device.lower()))
    return all(word in words for word in _WORD.findall(wanted.lower()))


def _usable(need: Requirement, gpus: Sequence[Gpu]) -> list[Gpu]:
    return [g for g in gpus if matches(need.gpu_type, g.type)] if need.gpu_type else list(gpus)


def _suits(need: Requirement, node: Node) -> bool:
    """Whether the node is of the right kind, its size aside."""
    return (
        node.inventory.runner == need.runner
        and (not need.node or node.name == need.node)
        and all(node.inventory.labels.get(k) == v for k, v in need.labels.items())
    )


def _fits(need: Requirement, *, gpus: Sequence[Gpu], cpus: int, memory_bytes: int) -> bool:
    return len(_usable(need, gpus)) >= need.gpus and cpus >= need.cpus and memory_bytes >= need.memory_bytes


def place(need: Requirement, free: Sequence[Capacity]) -> Placement | None:
    """The best node for a job now, or None."""
    able = [
        c
        for c in free
        if c.node.state is NodeState.READY
        and _suits(need, c.node)
        and _fits(need, gpus=c.gpus, cpus=c.cpus, memory_bytes=c.memory_bytes)
    ]
    if not able:
        return None
    best = min(able, key=lambda c: (len(c.gpus) - need.gpus, c.cpus - need.cpus, c.node.name))
    return Placement(best.node.name, tuple(g.index for g in _usable(need, best.gpus)[: need.gpus]))


def could_ever(need: Requirement, nodes: Iterable[Node]) -> bool:
    """Whether some known node, were it idle and ready, could take the job."""
    return any(
        _suits(need, node)
        and _fits(need, gpus=node.inventory.gpus, cpus=node.inventory.cpus, memory_bytes=node.inventory.memory_bytes)
        for node in nodes
    )


def too_large(need: Requirement, nodes: Iterable[Node], memory_bytes: float, *, bounded: bool) -> str:
    """Why no known device holds what a training is estimated to need; empty: one does.

    Args:
        need: of the job.
        nodes: all known ones.
        memory_bytes: for each device; of a job without devices: for its process.
        bounded: whether a process is held to the host's memory that it asked for.
    """
    able = [node for node in nodes if could_ever(need, [node])]
    if need.gpus:
        # The smallest of those that a node would give: a job's devices all hold as much.
        largest = max(
            sorted((g.memory_bytes for g in _usable(need, node.inventory.gpus)), reverse=True)[need.gpus - 1]
            for node in able
        )
        has = f"the largest {need.gpu_type or 'GPU'} has"
    else:
        largest = need.memory_bytes if bounded else max(node.inventory.memory_bytes for node in able)
        has = "resources.memory_gb gives" if bounded else "the largest node has"
    if memory_bytes <= largest:
        return ""
    whose = f"each {need.gpu_type or 'GPU'}" if need.gpus else "the host"
    return (
        f"needs about {memory_bytes / 2**30:.1f} GiB of memory on {whose}; {has} {largest / 2**30:.1f} GiB: lower "
        "tuning_parameters.batch_size or max_sequence_length, set gradient_checkpointing, or train with method qlora"
    )


def _devices(need: Requirement) -> str:
    if not need.gpus:
        return f"{need.cpus} CPUs and {need.memory_bytes / 2**30:g} GiB"
    return f"{need.gpus} x {need.gpu_type or 'GPU'}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def why_not(need: Requirement, free: Sequence[Capacity]) -> str:
    """Why a job waits, in words that say what would help: the first obstacle that no node passes."""
    wants = f"needs {_devices(need)}"
    if not free:
        return f"{wants}; no node has joined"
    kind = [c for c in free if _suits(need, c.node)]
    if not kind:
        named = f"node {need.node}" if need.node else f"runner {need.runner} and the labels asked for"
        return f"{wants}; no node matches {named}"
    large = [c for c in kind if could_ever(need, [c.node])]
    if not large:
        return f"{wants}; {_too_small(need, [c.node for c in kind])}"
    ready = [c for c in large if c.node.state is NodeState.READY]
    if not ready:
        whose = ", ".join(f"{c.node.name} ({c.node.reason or c.node.state})" for c in large[:3])
        return f"{wants}; {_plural(len(large), 'node')} could take it and none is ready: {whose}"
    if need.gpus:
        count = sum(len(_usable(need, c.gpus)) for c in ready)
        if all(len(_usable(need, c.gpus)) < need.gpus for c in ready):
            kinds = f"that has {need.gpu_type}" if need.gpu_type else "that has GPUs"
            nodes = (
                f"the {len(ready)} nodes {kinds.replace('has', 'have')} have"
                if len(ready) > 1
                else f"the node {kinds} has"
            )
            return f"{wants}; {nodes} {count} free"
    cpus, memory = max(c.cpus for c in ready), max(c.memory_bytes for c in ready)
    return (
        f"needs {need.cpus} CPUs and {need.memory_bytes / 2**30:g} GiB; {_plural(len(ready), 'node')} "
        f"could take it, with at most {max(cpus, 0)} CPUs and {max(memory, 0) / 2**30:.4g} GiB free"
    )


def _too_small(need: Requirement, nodes: Sequence[Node]) -> str:
    """Why no node of the right kind could ever take it."""
    if need.gpus:
        most = max(len(_usable(need, node.inventory.gpus)) for node in nodes)
        if most == 0:
            return f"no node has {need.gpu_type or 'a GPU'}"
        if most < need.gpus:
            return f"the largest node has {most}"
    cpus = max(node.inventory.cpus for node in nodes)
    memory = max(node.inventory.memory_bytes for node in nodes)
    return (
        f"with {need.cpus} CPUs and {need.memory_bytes / 2**30:g} GiB, but no node has both: "
        f"at most {cpus} CPUs and {memory / 2**30:.4g} GiB"
    )
