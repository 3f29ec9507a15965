"""What answers agents: `requests.NodeHandlers`, each kind by the service that owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controlplane.domain.node import Sync, Wanted
    from controlplane.engine.claims import Claims
    from controlplane.engine.intake import Intake
    from controlplane.engine.logs import Logs
    from controlplane.engine.nodes import Nodes
    from controlplane.engine.requests import (
        ClaimAnswer,
        ClaimAsked,
        CommitAnswer,
        CommitAsked,
        LogAnswer,
        LogChunk,
        ReportAnswer,
        ReportBatch,
    )


class Agents:
    """Hands each request on."""

    def __init__(self, *, nodes: Nodes, claims: Claims, intake: Intake, logs: Logs) -> None:
        self._nodes = nodes
        self._claims = claims
        self._intake = intake
        self._logs = logs

    async def sync(self, said: Sync, /) -> Wanted:
        """Records a node's state and answers what is wanted of it."""
        return await self._nodes.sync(said)

    async def claim(self, asked: ClaimAsked, /) -> ClaimAnswer:
        """Hands an attempt to its node."""
        return await self._claims.claim(asked)

    async def report(self, batch: ReportBatch, /) -> ReportAnswer:
        """Records what happened; answers after the commit."""
        return await self._intake.report(batch)

    async def commit(self, asked: CommitAsked, /) -> CommitAnswer:
        """Decides who publishes."""
        return await self._claims.commit(asked)

    async def log(self, chunk: LogChunk, /) -> LogAnswer:
        """Keeps a piece of a log."""
        return await self._logs.log(chunk)
