"""The conversation with the control plane: the whole state there, what is wanted back; on a wake, a change, in time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import structlog

from agent.ports import ControlPlane, NoAnswerError, NodeState, SyncAnswer

if TYPE_CHECKING:
    from agent.devices import Inventory
    from agent.supervisor import Supervisor

_log = structlog.get_logger()
_RETRY_SECONDS = 1.0
_CHANGE_SECONDS = 0.1


class SyncLoop:
    """Syncs; the first answer makes the agent ready, which is told with how bounds are enforced."""

    def __init__(self, control_plane: ControlPlane, *, inventory: Inventory, node: str, bounds: str) -> None:
        self._control_plane = control_plane
        self._inventory = inventory
        self._node = node
        self._bounds = bounds
        self._woken = asyncio.Event()
        self._changed = False
        self._last = (0, 0)
        self._ready = False
        self._answered = True

    def wake(self) -> None:
        """Sync at once."""
        self._woken.set()

    def changed(self) -> None:
        """Sync soon: changes that follow each other closely share one."""
        if not self._changed:
            self._changed = True
            asyncio.get_running_loop().call_later(_CHANGE_SECONDS, self._woken.set)

    async def run(self, supervisor: Supervisor) -> None:
        """Sync for ever.

        Raises:
            SupersededError: a newer agent of this node exists.
        """
        while True:
            self._woken.clear()
            self._changed = False
            pause = await self._sync(supervisor)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _sync(self, supervisor: Supervisor) -> float:
        state = NodeState(self._inventory, supervisor.not_ready_reason, supervisor.states())
        try:
            answer = await self._control_plane.sync(state)
        except NoAnswerError as error:
            if self._answered:
                _log.warning("control plane does not answer", node=self._node, error=str(error))
            self._answered = False
            return _RETRY_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  # jitter, no secret
        if not self._answered:
            _log.info("control plane answers", node=self._node)
            self._answered = True
        if answer.wanted is not None and self._is_news(answer):
            supervisor.want(answer.wanted)
            if not self._ready:
                self._ready = True
                _log.info("agent ready", node=self._node, bounds=self._bounds)
        return answer.next_sync_seconds

    def _is_news(self, answer: SyncAnswer) -> bool:
        """An older generation's reply is ignored; a new incarnation starts afresh."""
        incarnation, generation = self._last
        if answer.incarnation == incarnation and answer.generation < generation:
            return False
        self._last = (answer.incarnation, answer.generation)
        return True
