"""Nodes, as they last said they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from controlplane.domain.node import Gpu, Inventory, Node, NodeState
from controlplane.store import tables
from controlplane.store.bound import Bound, Lockable, Upsert

if TYPE_CHECKING:
    from controlplane.store.bound import AnyRow
_n = tables.nodes.c

#: In the order of `Node`'s fields.
_COLUMNS = (
    _n.name,
    _n.state,
    _n.reason,
    _n.inventory,
    _n.agent_version,
    _n.host_boot_id,
    _n.incarnation,
    _n.counter,
    _n.generation,
    _n.last_sync_time_us,
)
_SAVE = Upsert(tables.nodes, replacing=[column.name for column in _COLUMNS[1:]])
_ONE = Lockable.of(select(*_COLUMNS).where(_n.name == bindparam("name")))
_ALL = select(*_COLUMNS).order_by(_n.name)


def _inventory_of(stored: str) -> Inventory:
    values = json.loads(stored)
    values["gpus"] = tuple(Gpu(**gpu) for gpu in values["gpus"])
    return Inventory(**values)


def _node_of(row: AnyRow) -> Node:
    name, state, reason, inventory, *others = row
    return Node(name, NodeState(state), reason, _inventory_of(inventory), *others)


class Nodes(Bound):
    """`nodes` in one transaction."""

    def node(self, name: str) -> Node | None:
        """The node, locked."""
        row = self._first(_ONE, {"name": name})
        return None if row is None else _node_of(row)

    def nodes(self) -> list[Node]:
        """By name."""
        return [_node_of(row) for row in self._all(_ALL)]

    def save_node(self, node: Node) -> None:
        """Inserts or replaces."""
        values = {column.name: getattr(node, column.name) for column in _COLUMNS}
        values |= {"state": node.state.value, "inventory": json.dumps(asdict(node.inventory))}
        self._run(_SAVE.on(self._connection), values)
