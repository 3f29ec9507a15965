"""A transaction: everything that may be asked of the database, put together from one class per noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from controlplane.store import tables
from controlplane.store.artifacts import Artifacts
from controlplane.store.attempts import Attempts
from controlplane.store.bound import Bound, Upsert
from controlplane.store.checkpoints import Checkpoints
from controlplane.store.deliveries import Deliveries
from controlplane.store.events import Events
from controlplane.store.jobs import Jobs
from controlplane.store.metrics import Metrics
from controlplane.store.nodes import Nodes
from controlplane.store.outputs import Outputs
from controlplane.store.queue import Queue
from controlplane.store.records import Records
from controlplane.store.specs import Specs

if TYPE_CHECKING:
    from controlplane.engine.ports import Transaction

_GET = select(tables.installation.c.value).where(tables.installation.c.key == bindparam("key"))
_SET = Upsert(tables.installation, replacing=["value"])


class Installation(Bound):
    """Facts about this installation."""

    def meta(self, key: str) -> str:
        """A fact about the installation; empty: unknown."""
        row = self._first(_GET, {"key": key})
        return "" if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Writes it."""
        self._run(_SET.on(self._connection), {"key": key, "value": value})


class SqlTransaction(
    Jobs,
    Specs,
    Records,
    Queue,
    Outputs,
    Events,
    Attempts,
    Nodes,
    Artifacts,
    Checkpoints,
    Metrics,
    Deliveries,
    Installation,
):
    """The port's `Transaction` over a connection in which one is open."""


if TYPE_CHECKING:

    def _fulfils_the_port(transaction: SqlTransaction) -> Transaction:
        return transaction
