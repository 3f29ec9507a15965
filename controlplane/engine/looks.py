"""Looking at what a job would need: from a node what is the node's business, from here who would be called."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from controlplane.domain import placement
from controlplane.domain.node import NodeState
from controlplane.domain.preflight import Check, CheckStatus
from controlplane.engine.prober import ANSWER_SECONDS, question
from trainplane.backends import seen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from controlplane.domain.capacity import Capacity
    from controlplane.domain.spec import CheckedSpec
    from controlplane.engine.ports import Outbound, Vault
    from controlplane.engine.probing import ProbeBus

REACH_SECONDS = 5.0
AT_ONCE = 8
"""Preflights that nodes look into at a time; others wait for them, as long as a node may take."""
UNREACHABLE = "ENDPOINT_UNREACHABLE"
_NOT_SERVING = 500
_ENDPOINTS = (("webhook", "callbacks", "webhook_url"), ("status_stream", "artifacts", "status_stream_url"))


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, and what a node has seen of model and datasets (`trainplane.backends.seen`)."""

    checks: tuple[Check, ...]
    seen: dict[str, Any]
    node: str = ""


class Looks:
    """Makes the looks of preflights.

    Args:
        vault: seals what a node is told.
        bus: asks nodes.
        key_of: a node's public key; empty: it cannot be asked.
        outbound: reaches who would be called.
    """

    def __init__(self, *, vault: Vault, bus: ProbeBus, key_of: Callable[[str], bytes], outbound: Outbound) -> None:
        self._vault = vault
        self._bus = bus
        self._key_of = key_of
        self._outbound = outbound
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def make(self, checked: CheckedSpec, free: Sequence[Capacity], *, project: str) -> Looked:
        """All looks, at once; takes as long as a node may take to answer, and never raises for what is found."""
        ours = [self._reach(name, checked.effective.get(block, {}).get(field)) for name, block, field in _ENDPOINTS]
        from_node, reached = await asyncio.gather(self._from_node(checked, free, project), asyncio.gather(*ours))
        return Looked(
            (*from_node.checks, *(each for each in reached if each is not None)), from_node.seen, from_node.node
        )

    async def _from_node(self, checked: CheckedSpec, free: Sequence[Capacity], project: str) -> Looked:
        names = _of_a_node(checked.effective)
        if checked.backend == "mock":
            return Looked(_skipped(names, "backend mock reads no model and no dataset"), {})
        node = self._chosen(checked, free)
        if not node:
            return Looked(_skipped(names, "no node is ready to look"), {})
        told = {
            "job_id": checked.job_id or "preflight",
            "project": project,
            "spec": checked.effective,
            "preflight": True,
        }
        try:
            sealed = question(self._vault, self._key_of(node), told, checked.secrets)
            async with asyncio.timeout(ANSWER_SECONDS), self._turn:
                found = await self._bus.probe(node, sealed, seconds=ANSWER_SECONDS)
        except (ValueError, TimeoutError):  # a key that is none; or too many ask at once
            found = None
        if found is None or not found.findings:
            why = found.message if found is not None and found.message else f"node {node} did not answer in time"
            return Looked(_skipped(names, why, node=node), {}, node)
        by_name = {each.check: each for each in found.findings}
        checks = tuple(
            Check(name, CheckStatus(each.outcome), each.reason, each.message, node)
            if (each := by_name.get(name))
            else Check(name, CheckStatus.SKIPPED, message="the node's agent is older and does not look", node=node)
            for name in names
        )
        return Looked(checks, seen.parse(found.facts), node)

    def _chosen(self, checked: CheckedSpec, free: Sequence[Capacity]) -> str:
        """Where the job would go; else a node that could take it; else any, for all have much the same network."""
        ready = [each for each in free if each.node.state is NodeState.READY and self._key_of(each.node.name)]
        would = placement.place(checked.requirement, ready)
        if would is not None:
            return would.node
        able = [each for each in ready if placement.could_ever(checked.requirement, [each.node])]
        return next((each.node.name for each in (*able, *ready)), "")

    async def _reach(self, name: str, url: str | None) -> Check | None:
        if not url:
            return None
        answer = await self._outbound.reach(url, deadline=timedelta(seconds=REACH_SECONDS))
        if 0 < answer.status_code < _NOT_SERVING:  # whoever takes events only may well refuse a HEAD
            return Check(name, CheckStatus.PASSED)
        field = next(f"{block}.{field}" for each, block, field in _ENDPOINTS if each == name)
        why = answer.detail or f"answered {answer.status_code}"
        return Check(name, CheckStatus.FAILED, UNREACHABLE, f"{field}: {why}; the job runs all the same, unheard there")


def _of_a_node(effective: dict[str, Any]) -> list[str]:
    """The checks that a node makes."""
    names = ["model", *(f"datasets[{index}]" for index in range(len(effective["datasets"])))]
    places = (("output", "output_uri"), ("log", "log_uri"))
    names += [name for name, field in places if effective["artifacts"].get(field)]
    return [*names, "push"] if effective.get("export", {}).get("push_to_hub") else names


def _skipped(names: Sequence[str], why: str, *, node: str = "") -> tuple[Check, ...]:
    return tuple(Check(name, CheckStatus.SKIPPED, message=why, node=node) for name in names)
