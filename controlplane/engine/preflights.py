"""What a submit would come to, without one: nothing is stored, nothing is charged.

body ─ check ─► violations? that is the answer
         └─► SQL: name, output, nodes ─► feasible? ─► looks at what the job needs ─► estimate
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.domain import placement, spec
from controlplane.domain.errors import InvalidSpec, JobExists, Violation
from controlplane.domain.preflight import Check, CheckStatus, Preflight
from controlplane.engine import history, outputs
from trainplane import backends
from trainplane.backends.estimate import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from controlplane.domain.capacity import Capacity
    from controlplane.domain.node import Node
    from controlplane.domain.spec import CheckedSpec, Rules
    from controlplane.engine.looks import Looked, Looks
    from controlplane.engine.ports import Store, Transaction, Vault


@dataclass(frozen=True, slots=True)
class _Seen:
    """What SQL says about a request."""

    violations: tuple[Violation, ...]
    free: tuple[Capacity, ...]

    @property
    def nodes(self) -> list[Node]:
        """Every known one."""
        return [each.node for each in self.free]


class Preflights:
    """Answers what requests would come to.

    Args:
        store: is read only.
        rules: the platform's.
        vault: for telling whether a request is the same as a job of its name.
        looks: at what the job needs.
    """

    def __init__(self, store: Store, *, rules: Rules, vault: Vault, looks: Looks) -> None:
        self._store = store
        self._rules = rules
        self._vault = vault
        self._looks = looks

    async def look(self, body: bytes, *, project: str) -> Preflight:
        """Judges a request, and looks at what its job would need.

        Raises:
            InvalidSpec: the body is no JSON object.
            StoreUnavailable: the database does not answer.
        """
        raw = spec.parse(body)
        try:
            checked = spec.check(raw, rules=self._rules, fallback_job_id=f"preflight-{secrets.token_hex(8)}")
        except InvalidSpec as error:
            return Preflight(violations=error.violations, judged=False)
        seen = await self._store.read(self._reader(checked, project))
        looked = await self._looks.make(checked, seen.free, project=project)
        speed = await self._store.read(lambda tx: self._speed(tx, checked, looked, project))
        estimate = _estimate(checked, looked, seen.nodes, tokens_per_second=speed)
        need, why = checked.requirement, ""
        if not placement.could_ever(need, seen.nodes):
            why = placement.why_not(need, seen.free)
        elif estimate.gpu_memory_bytes is not None:
            why = placement.too_large(need, seen.nodes, estimate.gpu_memory_bytes, bounded=_bounded(checked))
        waits = not why and placement.place(need, seen.free) is None
        return Preflight(
            violations=seen.violations,
            warnings=checked.warnings,
            infeasible_reason=why,
            pending_reason=placement.why_not(need, seen.free) if waits else "",
            checks=(*looked.checks, *_disk(looked, estimate)),
            estimate=estimate,
        )

    def _speed(self, tx: Transaction, checked: CheckedSpec, looked: Looked, project: str) -> float:
        """How fast jobs like it have trained on what it would get; 0: not known."""
        node = next((each for each in tx.nodes() if each.name == looked.node), None)
        device = history.device_of(node, checked.requirement) if node is not None else ""
        if not device:
            return 0.0
        return history.tokens_per_second(tx, checked.effective, device, project=project, rules=self._rules)

    def _reader(self, checked: CheckedSpec, project: str) -> Callable[[Transaction], _Seen]:
        """What of a submit's checks needs the database; the answer to a repeat is the job that is there."""
        place = spec.place(checked.effective["artifacts"]["output_uri"])
        macs = spec.secret_macs(checked.secrets, self._vault.mac_key()) if checked.secrets else {}

        def read(tx: Transaction) -> _Seen:
            free = tuple(placement.capacities(tx.nodes(), tx.charged_attempts()))
            there = tx.record(project, checked.job_id) if checked.job_id else None
            if there is not None:
                sent = json.loads(spec.canonical(checked.sent))
                differing = spec.same(json.loads(there.sent), json.loads(there.secret_macs), sent, macs)
                found = JobExists(there.job.job_id, differing=differing) if differing else None
                return _Seen((Violation("job_id", found.reason, str(found)),) if found else (), free)
            taken = outputs.held(tx, project, place)
            if taken is None:
                return _Seen((), free)
            said = str(taken).removeprefix("artifacts.output_uri: ")
            return _Seen((Violation("artifacts.output_uri", taken.reason, said),), free)

        return read


def _disk(looked: Looked, estimate: Estimate) -> tuple[Check, ...]:
    """Whether the node that looked has room for what the job would bring and leave there; none where nobody looked."""
    free = looked.seen.get("disk_free_bytes")
    if free is None:
        return ()
    if estimate.disk_bytes is None:
        return (Check("disk", CheckStatus.SKIPPED, message=estimate.unknown["disk_bytes"], node=looked.node),)
    if estimate.disk_bytes <= free:
        return (Check("disk", CheckStatus.PASSED, node=looked.node),)
    said = (
        f"base_model: the job needs about {estimate.disk_bytes / 2**30:.1f} GiB of the node's disk, and "
        f"{free / 2**30:.1f} GiB are free: make room there, or let another node take it"
    )
    return (Check("disk", CheckStatus.FAILED, "DISK_FULL", said, looked.node),)


def _bounded(checked: CheckedSpec) -> bool:
    """Whether the job asked for so much of the host's memory and is held to it."""
    return "memory_gb" in checked.effective["resources"]


def _estimate(checked: CheckedSpec, looked: Looked, nodes: Sequence[Node], *, tokens_per_second: float) -> Estimate:
    """What the engine reckons that the training takes."""
    reckon = getattr(backends.find(checked.backend), "estimate", None)
    if reckon is None:  # see `trainplane.backends.backend.Estimating`
        return Estimate.nothing(f"backend {checked.backend} does not estimate")
    need = checked.requirement
    on_gpu = need.gpus > 0
    seen = looked.seen
    if on_gpu and placement.could_ever(need, nodes):
        seen = {**seen, "device_bytes": placement.largest_share(need, nodes)}
    found: Estimate = reckon(checked.effective, seen, on_gpu=on_gpu, tokens_per_second=tokens_per_second)
    return found
