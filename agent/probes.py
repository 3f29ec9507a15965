"""Answers the control plane's question whether a job's model can be had here, before a device is charged for it.

    link ─ take ─► queue ─► some workers ─► a child each ─► answer, 10 s after the question came

Never in the way of anything: more than a few questions at once wait a little, many more are not looked at, and none of
it touches an attempt. The time that one waits counts: who asks hears something before it gives up (12 s), and what it
gave up is not looked at in the place of what it still wants to know.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import structlog

from agent.inputs.failures import InputError
from agent.ports import ProbeAnswer, ProbeFinding, ProbeOutcome
from agent.sealing import SealError
from agent.uploader.fetcher import ProbeWanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.sealing import SealingKey
    from agent.uploader.fetcher import Fetcher

    Answer = Callable[[ProbeAnswer], Awaitable[None]]

_log = structlog.get_logger()
WORKERS = 4
WAITING = 32
PROBE_SECONDS = 10.0
_LEAST_SECONDS = 2.0
"""A look that has less is not begun: a child takes most of that to start."""
_FACTS_BYTES = 200_000


class Probes:
    """The questions of one agent.

    Args:
        fetcher: starts the children.
        sealing_key: opens the questions.
    """

    def __init__(self, fetcher: Fetcher, sealing_key: SealingKey) -> None:
        self._fetcher = fetcher
        self._sealing_key = sealing_key
        self._waiting: asyncio.Queue[tuple[bytes, Answer, float]] = asyncio.Queue(maxsize=WAITING)

    def take(self, sealed: bytes, answer: Answer) -> None:
        """Look into it soon; a question too many is dropped, for no answer means nothing."""
        if self._waiting.full():
            _log.info("probe not looked at", reason="too many at once")
            return
        self._waiting.put_nowait((sealed, answer, asyncio.get_running_loop().time() + PROBE_SECONDS))

    async def run(self) -> None:
        """Answer for ever."""
        async with asyncio.TaskGroup() as workers:
            for number in range(WORKERS):
                workers.create_task(self._work(), name=f"probe {number}")

    async def _work(self) -> None:
        while True:
            sealed, answer, until = await self._waiting.get()
            await answer(await self._looked(sealed, until))

    async def _looked(self, sealed: bytes, until: float) -> ProbeAnswer:
        try:
            wanted = ProbeWanted(**json.loads(self._sealing_key.open(sealed)["job"]))
        except (SealError, ValueError, KeyError, TypeError):
            # Sealed to a former process of this agent's, or by a later control plane.
            return ProbeAnswer(ProbeOutcome.SKIPPED, message="the question cannot be read")
        try:
            if until - asyncio.get_running_loop().time() < _LEAST_SECONDS:
                said = f"too many questions at once to look within {PROBE_SECONDS:g} s"
                return ProbeAnswer(ProbeOutcome.SKIPPED, message=said)
            async with asyncio.timeout_at(until):
                if wanted.preflight:
                    return _preflown(await self._fetcher.preflight(wanted))
                found = await self._fetcher.probe(wanted)
        except TimeoutError:
            return ProbeAnswer(ProbeOutcome.SKIPPED, message=f"no answer within {PROBE_SECONDS:g} s")
        except InputError as error:
            failed = ProbeOutcome.FAILED if error.lasting else ProbeOutcome.SKIPPED
            _log.info("model probed", job_id=wanted.job_id, outcome=failed.value, reason=error.reason)
            return ProbeAnswer(failed, error.reason, str(error))
        _log.info("model probed", job_id=wanted.job_id, outcome=found["outcome"])
        return ProbeAnswer(ProbeOutcome(found["outcome"]), facts=_facts(found["facts"]))


def _preflown(found: dict[str, Any]) -> ProbeAnswer:
    """A preflight's answer. What was seen of a model that is too much to tell is left out: it is then unknown."""
    findings = tuple(
        ProbeFinding(each["check"], ProbeOutcome(each["outcome"]), each["reason"], each["message"])
        for each in found["findings"]
    )
    _log.info("preflight looked at", failed=[each.check for each in findings if each.outcome is ProbeOutcome.FAILED])
    return ProbeAnswer(ProbeOutcome.PASSED, findings=findings, facts=_facts(found["facts"]))


def _facts(seen: dict[str, Any]) -> str:
    """As they go over the wire."""
    told = json.dumps(seen) if seen else ""
    return told if len(told) <= _FACTS_BYTES else ""
