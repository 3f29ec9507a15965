"""Which node a job runs on: all of its devices or none, and why not.

Best fit, so that big holes stay: among the nodes that can take a job, the one with the fewest GPUs left over wins, then
the fewest CPUs, then the name. A job that no single node could ever hold gets several (`gang.py`); one that fits a node
is never split. Pure; what is charged comes in as a list.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controlplane.domain import gang
from controlplane.domain.capacity import Capacity, Placement, fits, plural, suits, usable
from controlplane.domain.node import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from controlplane.domain.attempt import Attempt
    from controlplane.domain.job import Requirement
    from controlplane.domain.node import Node


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


def place(need: Requirement, free: Sequence[Capacity]) -> Placement | None:
    """The best node for a job now, or the best nodes if no single one could ever hold it, or None."""
    ready = [c for c in free if c.node.state is NodeState.READY]
    able = [
        c for c in ready if suits(need, c.node) and fits(need, gpus=c.gpus, cpus=c.cpus, memory_bytes=c.memory_bytes)
    ]
    if not able:
        return gang.place(need, ready) if gang.needed(need, [c.node for c in free]) else None
    best = min(able, key=lambda c: (len(c.gpus) - need.gpus, c.cpus - need.cpus, c.node.name))
    return Placement(best.node.name, tuple(g.index for g in usable(need, best.gpus)[: need.gpus]))


def could_ever(need: Requirement, nodes: Iterable[Node]) -> bool:
    """Whether some known node, or several, were they idle and ready, could take the job."""
    known = list(nodes)
    return any(_could_alone(need, node) for node in known) or (
        gang.needed(need, known) and gang.place(need, capacities(known, [])) is not None
    )


def _could_alone(need: Requirement, node: Node) -> bool:
    return suits(need, node) and fits(
        need, gpus=node.inventory.gpus, cpus=node.inventory.cpus, memory_bytes=node.inventory.memory_bytes
    )


def too_large(need: Requirement, nodes: Iterable[Node], memory_bytes: float, *, bounded: bool) -> str:
    """Why no known device holds what a training is estimated to need; empty: one does.

    Args:
        need: of the job.
        nodes: all known ones.
        memory_bytes: for each device; of a job without devices: for its process.
        bounded: whether a process is held to the host's memory that it asked for.
    """
    known = list(nodes)
    able = [node for node in known if _could_alone(need, node)]
    if need.gpus:
        largest = largest_share(need, known)
        has = f"the largest {need.gpu_type or 'GPU'} has"
    else:
        largest = need.memory_bytes if bounded else max(node.inventory.memory_bytes for node in able)
        has = "resources.memory_gb gives" if bounded else "the largest node has"
    if memory_bytes <= largest:
        return ""
    whose = f"each {need.gpu_type or 'GPU'}" if need.gpus else "the host"
    return (
        f"needs about {memory_bytes / 2**30:.1f} GiB of memory on {whose}; {has} {largest / 2**30:.1f} GiB: lower "
        "tuning_parameters.batch_size or max_sequence_length, set gradient_checkpointing, ask for more GPUs (a model "
        "that fits none is sharded over them), or train with method qlora"
    )


def _devices(need: Requirement) -> str:
    if not need.gpus:
        return f"{need.cpus} CPUs and {need.memory_bytes / 2**30:g} GiB"
    return f"{need.gpus} x {need.gpu_type or 'GPU'}"


def why_not(need: Requirement, free: Sequence[Capacity]) -> str:
    """Why a job waits, in words that say what would help: the first obstacle that no node passes."""
    wants = f"needs {_devices(need)}"
    if not free:
        return f"{wants}; no node has joined"
    kind = [c for c in free if suits(need, c.node)]
    if not kind:
        named = f"node {need.node}" if need.node else f"runner {need.runner} and the labels asked for"
        return f"{wants}; no node matches {named}"
    large = [c for c in kind if _could_alone(need, c.node)]
    if not large:
        return _least(need, free) or _too_small(need, free, wants)
    ready = [c for c in large if c.node.state is NodeState.READY]
    if not ready:
        whose = ", ".join(f"{c.node.name} ({c.node.reason or c.node.state})" for c in large[:3])
        return f"{wants}; {plural(len(large), 'node')} could take it and none is ready: {whose}"
    if need.gpus:
        count = sum(len(usable(need, c.gpus)) for c in ready)
        if all(len(usable(need, c.gpus)) < need.gpus for c in ready):
            kinds = f"that has {need.gpu_type}" if need.gpu_type else "that has GPUs"
            nodes = (
                f"the {len(ready)} nodes {kinds.replace('has', 'have')} have"
                if len(ready) > 1
                else f"the node {kinds} has"
            )
            return f"{wants}; {nodes} {count} free"
    cpus, memory = max(c.cpus for c in ready), max(c.memory_bytes for c in ready)
    return (
        f"needs {need.cpus} CPUs and {need.memory_bytes / 2**30:g} GiB; {plural(len(ready), 'node')} "
        f"could take it, with at most {max(cpus, 0)} CPUs and {max(memory, 0) / 2**30:.4g} GiB free"
    )


def _least(need: Requirement, free: Sequence[Capacity]) -> str:
    """Why no device holds the least that the job's model takes; empty: its memory is not what is wanting."""
    known, anyhow = [c.node for c in free], replace(need, device_bytes=0.0)
    if not need.device_bytes or could_ever(need, known) or not could_ever(anyhow, known):
        return ""
    which = need.gpu_type or "GPU"
    return (
        f"needs at least {need.device_bytes / 2**30:.1f} GiB of memory on each {which}, for its weights and what is "
        f"trained of them; the largest {which} has {largest_share(anyhow, known) / 2**30:.1f} GiB: train with method "
        "qlora, a smaller model or more GPUs, or add such a device"
    )


def largest_share(need: Requirement, nodes: Sequence[Node]) -> int:
    """Memory of the smallest device of those that the best node, or nodes, would give: all hold as much."""
    alone = [
        sorted((g.memory_bytes for g in usable(need, node.inventory.gpus)), reverse=True)[need.gpus - 1]
        for node in nodes
        if _could_alone(need, node)
    ]
    return max(alone, default=0) or gang.largest_device_bytes(need, capacities(nodes, []))


def _too_small(need: Requirement, free: Sequence[Capacity], wants: str) -> str:
    """Why no node of the right kind could ever take it alone."""
    known = [c.node for c in free]
    if gang.needed(need, known):
        return gang.why_not(need, free, idle=capacities(known, []), wants=wants)
    nodes = [node for node in known if suits(need, node)]
    if need.gpus:
        most = max(len(usable(need, node.inventory.gpus)) for node in nodes)
        if most == 0:
            return f"{wants}; no node has {need.gpu_type or 'a GPU'}"
        if most < need.gpus:
            return f"{wants}; the largest node has {most}"
    cpus = max(node.inventory.cpus for node in nodes)
    memory = max(node.inventory.memory_bytes for node in nodes)
    return (
        f"{wants}; with {need.cpus} CPUs and {need.memory_bytes / 2**30:g} GiB, but no node has both: "
        f"at most {cpus} CPUs and {memory / 2**30:.4g} GiB"
    )
