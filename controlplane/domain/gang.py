"""Which nodes a job goes to that no single one could ever hold: all of them or none (ADR 0032).

As few nodes as can be had now, with equally many devices of one kind each, and of those the tightest fit. CPUs and
memory are asked of each node. Only nodes that others can reach (`rendezvous_address`) take part. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controlplane.domain.capacity import Placement, fits, plural, suits, usable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from controlplane.domain.capacity import Capacity
    from controlplane.domain.job import Requirement
    from controlplane.domain.node import Gpu, Node


@dataclass(frozen=True, slots=True)
class _Found:
    """Nodes that together hold a job."""

    placement: Placement
    left: int
    """Devices that stay free on them: the fewer, the better the fit."""
    kind: tuple[str, bool]
    device_bytes: int
    """What the smallest device holds."""


def needed(need: Requirement, nodes: Sequence[Node]) -> bool:
    """Whether only several of these nodes could hold the job, were they idle: one that fits a node is never split."""
    return (
        need.spreads
        and need.gpus > 1
        and not need.node
        and all(len(usable(need, node.inventory.gpus)) < need.gpus for node in nodes if suits(need, node))
    )


def place(need: Requirement, free: Sequence[Capacity]) -> Placement | None:
    """The best nodes for a job that `needed` holds for, or None."""
    best: _Found | None = None
    for found in _candidates(need, free):
        if best is not None and len(found.placement.others) > len(best.placement.others):
            break
        if best is None or (found.left, found.kind) < (best.left, best.kind):
            best = found
    return None if best is None else best.placement


def largest_device_bytes(need: Requirement, idle: Sequence[Capacity]) -> int:
    """What each device could hold at most; 0: no nodes could ever hold the job."""
    return max((found.device_bytes for found in _candidates(need, idle)), default=0)


def _candidates(need: Requirement, free: Sequence[Capacity]) -> Iterator[_Found]:
    """The best nodes of each kind of device, for each number of nodes, the smallest number first."""
    able = [c for c in free if c.node.inventory.rendezvous_address and suits(need, c.node)]
    kinds = sorted({_kind(c, gpu) for c in able for gpu in usable(need, c.gpus)})
    for count in range(2, len(able) + 1):
        if need.gpus % count:
            continue
        for kind in kinds:
            found = _of_kind(need, able, kind, count)
            if found is not None:
                yield found


def _kind(of: Capacity, gpu: Gpu) -> tuple[str, bool]:
    """Ranks that wait for each other are to be alike; a declared device trains on the CPU."""
    return gpu.type, of.node.inventory.simulated


def _of_kind(need: Requirement, able: Sequence[Capacity], kind: tuple[str, bool], count: int) -> _Found | None:
    share = replace(need, gpus=need.gpus // count)
    fitting = []
    for c in able:
        gpus = [gpu for gpu in usable(need, c.gpus) if _kind(c, gpu) == kind]
        if fits(share, gpus=gpus, cpus=c.cpus, memory_bytes=c.memory_bytes):
            fitting.append((len(c.gpus) - share.gpus, c.cpus - share.cpus, c.node.name, gpus[: share.gpus]))
    if len(fitting) < count:
        return None
    chosen = sorted(fitting, key=lambda each: each[:3])[:count]
    first, *others = [Placement(name, tuple(gpu.index for gpu in gpus)) for _, _, name, gpus in chosen]
    return _Found(
        placement=replace(first, others=tuple(others)),
        left=sum(each[0] for each in chosen),
        kind=kind,
        device_bytes=min(gpu.memory_bytes for each in chosen for gpu in each[3]),
    )


def why_not(need: Requirement, free: Sequence[Capacity], *, idle: Sequence[Capacity], wants: str) -> str:
    """Why a job that `needed` holds for waits.

    Args:
        need: of the job.
        free: what is free now.
        idle: the same nodes, were nothing on them.
        wants: how the sentence begins.
    """
    most = max((len(usable(need, c.gpus)) for c in idle if suits(need, c.node)), default=0)
    if not most:
        return f"{wants}; no node has {need.gpu_type or 'a GPU'}"
    possible = place(need, idle)
    if possible is None:
        deaf = [c.node.name for c in idle if suits(need, c.node) and not c.node.inventory.rendezvous_address]
        hint = f"; {plural(len(deaf), 'node')} without a rendezvous address ({', '.join(deaf[:3])})" if deaf else ""
        return (
            f"{wants}; the largest node has {most}, and no nodes with equal shares, each with {need.cpus} CPUs and "
            f"{need.memory_bytes / 2**30:g} GiB, hold it together{hint}"
        )
    count = len(possible.shares)
    share = replace(need, gpus=need.gpus // count)
    words = f"{wants} on {count} nodes of {share.gpus}"
    large = [c for c in free if c.node.inventory.rendezvous_address and suits(need, c.node) and _could(share, c, idle)]
    ready = [c for c in large if c.node.state == "READY"]
    if len(ready) < count:
        absent = ", ".join(f"{c.node.name} ({c.node.reason or c.node.state})" for c in large if c not in ready)
        are, others = "is" if len(ready) == 1 else "are", "is" if len(large) == len(ready) + 1 else "are"
        able = plural(len(large), "node")
        return f"{words}; {len(ready)} of the {able} that could take part {are} ready: {absent} {others} not"
    having = [c for c in ready if len(usable(need, c.gpus)) >= share.gpus]
    if len(having) < count:
        some = f"{len(having) or 'none'} {'has' if len(having) < 2 else 'have'}"
        return f"{words}; of the {len(ready)} that could take part {some} {share.gpus} free"
    return (
        f"{words}, with {need.cpus} CPUs and {need.memory_bytes / 2**30:g} GiB each; too few of the {len(having)} that "
        f"have {share.gpus} free have those"
    )


def _could(share: Requirement, of: Capacity, idle: Sequence[Capacity]) -> bool:
    whole = next(c for c in idle if c.node.name == of.node.name)
    return fits(share, gpus=whole.gpus, cpus=whole.cpus, memory_bytes=whole.memory_bytes)
