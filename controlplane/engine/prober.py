"""Looking at a job's model before a device is charged for it: what would fail for certain fails in the queue.

    dispatcher ── a node is found, the model is elsewhere and not looked at ──► pending "checking the model on gpu-01"
      ─ commit ─► ask ─► the node's agent looks (sealed spec and token) ─► FAILED: the job fails, no device was charged
                                                                       └─► anything else: the dispatcher places it

No answer, an older agent, a hub that is down: all the same as a pass, within seconds, for the fetch on the node tells
as well. What was found is kept in memory only: a restarted control plane looks again.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from controlplane.domain import news as n
from controlplane.domain import retry
from controlplane.domain.job import State
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable
from trainplane import backends
from trainplane.backends import seen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controlplane.domain.job import Job, Requirement
    from controlplane.engine.changes import Changes, Recorder
    from controlplane.engine.ports import Store, Transaction, Vault
    from controlplane.engine.probing import ProbeBus, Probed

_log = structlog.get_logger()
#: The node gives up after 10 s.
ANSWER_SECONDS = 12.0
_AT_ONCE = 16
_REMEMBERED = 10_000
_SECRETS = "base_model."
_ELSEWHERE = frozenset({"huggingface", "s3"})


def looks_elsewhere(effective: Mapping[str, Any]) -> bool:
    """Whether only a node can look: at a model that is elsewhere, at its architecture, or at what a token may write."""
    model = effective["base_model"]
    return effective["backend"] != "mock" and (
        model["provider"] in _ELSEWHERE
        or str(model.get("weights_url", "")).startswith("s3://")
        or any(effective.get("export", {}).get(each) for each in ("gguf", "push_to_hub"))
    )


def question(vault: Vault, key: bytes, told: Mapping[str, Any], secrets: Mapping[str, str]) -> bytes:
    """What a node is told of a job that it is to look at, sealed to it, with the secrets that are its business.

    Raises:
        ValueError: its key is none.
    """
    business = {path: value for path, value in secrets.items() if path.startswith(_SECRETS)}
    return vault.seal_to(key, {"job": json.dumps({**told, "secrets": business})})


class Prober:
    """Asks nodes, some at once, and remembers which jobs were looked at."""

    def __init__(
        self, recorder: Recorder, *, store: Store, vault: Vault, bus: ProbeBus, key_of: Callable[[str], bytes]
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._vault = vault
        self._bus = bus
        self._key_of = key_of
        """A node's public key; empty: it has none, and cannot be asked."""
        self._asked: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._under_way: set[str] = set()
        self._looked: OrderedDict[str, float] = OrderedDict()
        """Jobs whose models were looked at, the newest last, and what each device must hold for them; 0: not known."""

    def must_look(self, job: Job, effective: Mapping[str, Any]) -> bool:
        """Whether a job waits for a look before it may be placed. An earlier attempt was a look, too."""
        return not job.attempt and job.uid not in self._looked and looks_elsewhere(effective)

    def need(self, uid: str, requirement: Requirement) -> Requirement:
        """What a job needs, with what the look at its model has told; the same object where that is nothing."""
        least = self._looked.get(uid, 0.0)
        return replace(requirement, device_bytes=least) if least and requirement.gpus else requirement

    def ask(self, wanted: Mapping[str, str]) -> None:
        """Have nodes look at jobs' models: uid -> node. One look at a time for a job. Never blocks."""
        for uid, node in wanted.items():
            if uid not in self._under_way:
                self._under_way.add(uid)
                self._asked.put_nowait((uid, node))

    async def run(self) -> None:
        """The loop: some workers, each with one question at a time."""
        async with asyncio.TaskGroup() as workers:
            for number in range(_AT_ONCE):
                workers.create_task(self._work(), name=f"prober {number}")

    async def _work(self) -> None:
        while True:
            uid, node = await self._asked.get()
            try:
                await self._look(uid, node)
            except (StoreUnavailable, OutcomeUnknown) as error:
                _log.info("model_not_looked_at", uid=uid, why=str(error))  # the dispatcher's next walk asks again
            finally:
                self._under_way.discard(uid)

    async def _look(self, uid: str, node: str) -> None:
        sealed, effective = await self._question(uid, node)
        found = await self._bus.probe(node, sealed, seconds=ANSWER_SECONDS) if sealed else None
        refused = found is not None and _is_certain(found)
        least = 0.0 if refused else _least(effective, found)
        if not refused:
            self._remember(uid, least)  # before the job can be seen again

        def conclude(changes: Changes) -> None:
            job = changes.tx.job(uid)
            if job is None or job.state is not State.QUEUED:
                return
            if refused and found is not None:
                changes.apply(job, n.Refused(found.reason, found.message))
                changes.told.capacity = True  # whoever waited behind it was told that there is no room
            else:
                changes.tx.set_pending({uid: ""})  # not looked at by the dispatcher yet, so its next round takes it
                changes.told.queue = True
                if any(0 < gpu.memory_bytes < least for node in changes.tx.nodes() for gpu in node.inventory.gpus):
                    changes.told.capacity = True  # the job may not take what it was looked at for: others may

        await self._recorder.write(conclude)
        _log.info("model_looked_at", uid=uid, node=node, found=found.outcome if found else "no answer")

    async def _question(self, uid: str, node: str) -> tuple[bytes, dict[str, Any]]:
        """What the node is told, empty where it cannot be asked; and the job's spec."""
        key = self._key_of(node)
        nothing: tuple[bytes, dict[str, Any]] = (b"", {})
        if not key:
            return nothing

        def read(tx: Transaction) -> tuple[bytes, dict[str, Any]]:
            job, kept = tx.job(uid), tx.sealed_secrets(uid)
            effective = tx.effective_spec(uid)
            if job is None or not effective:
                return nothing
            secrets = self._vault.open(kept.sealed, uid=uid) if kept and kept.sealed else {}
            told = {"job_id": job.job_id, "project": job.project, "spec": json.loads(effective)}
            return question(self._vault, key, told, secrets), told["spec"]

        try:
            return await self._store.read(read)
        except ValueError as error:  # secrets under a master key that is gone, or a node's key that is none
            _log.info("model_not_looked_at", uid=uid, node=node, why=str(error))
            return nothing

    def _remember(self, uid: str, least: float) -> None:
        self._looked[uid] = least
        if len(self._looked) > _REMEMBERED:
            self._looked.popitem(last=False)


def _least(effective: dict[str, Any], found: Probed | None) -> float:
    """What each device must hold, by what the node has seen of the model; 0: not known."""
    told = seen.parse(found.facts) if found is not None else {}
    bound = getattr(backends.find(str(effective.get("backend"))), "least_device_bytes", None)
    return float(bound(effective, told)) if bound is not None and "model" in told else 0.0


def _is_certain(found: Probed) -> bool:
    """Whether the job would fail whenever it ran: not for a reason that is tried again, whatever the node says."""
    return found.outcome == "FAILED" and retry.policy(found.reason) is retry.Policy.NEVER
