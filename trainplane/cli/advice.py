"""What would help a job that waits, read off the job and the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainplane.v1.job_pb2 import Job
    from trainplane.v1.node_pb2 import Node


def advice(job: Job, nodes: Sequence[Node]) -> str:
    """One sentence that says what the user can do, or that waiting is all it takes."""
    ready = [node for node in nodes if node.state == node.READY]
    wanted = job.effective_spec.resources
    if not ready:
        return (
            "no node is ready: start an agent (`trainplane up`, or `trainplane nodes enroll NAME` for another machine)"
        )
    largest = max((len(_matching(node, wanted.gpu_type)) for node in ready), default=0)
    if wanted.gpus > largest:
        kind = wanted.gpu_type or "GPU"
        return (
            f"it starts when a node with {wanted.gpus} x {kind} joins (the largest has {largest}):"
            " add one with `trainplane nodes enroll NAME`, or ask for fewer in resources.gpus (0 trains on the CPU)"
        )
    if all(node.cpus < wanted.cpus or node.memory_gb < wanted.memory_gb for node in ready):
        return "no node is as large as resources.cpus and resources.memory_gb ask: ask for less, or add a larger node"
    holders = sorted({gpu.job_id for node in ready for gpu in _matching(node, wanted.gpu_type) if gpu.job_id})
    if wanted.gpus and holders:
        return (
            f"it starts when devices are free; held by {', '.join(holders[:5])} (`trainplane cancel JOB_ID` frees them)"
        )
    return "it starts when a node has room: `trainplane nodes` shows what is free, `trainplane jobs` who runs"


def _matching(node: Node, gpu_type: str) -> list[Node.Gpu]:  # type: ignore[name-defined]
    """The node's devices whose name has all the words."""
    words = gpu_type.lower().replace("-", " ").split()
    return [gpu for gpu in node.gpus if all(word in gpu.type.lower() for word in words)]
