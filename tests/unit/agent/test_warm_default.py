"""Whether an agent has warm trainers where nobody said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.app import warm_trainers
from agent.devices import Inventory
from agent.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

ROOMY = Inventory((), cpus=4, memory_bytes=16 * 10**9)


@pytest.mark.parametrize(
    ("inventory", "said", "has"),
    [
        (ROOMY, {}, True),
        (replace(ROOMY, memory_bytes=7 * 10**9), {}, False),
        (replace(ROOMY, simulated=True), {}, False),
        (replace(ROOMY, memory_bytes=2 * 10**9, simulated=True), {"warm_trainers": True}, True),
        (ROOMY, {"warm_trainers": False}, False),
    ],
)
def test_warm_trainers_are_for_hosts_with_room_that_train(
    tmp_path: Path, inventory: Inventory, said: dict[str, Any], *, has: bool
) -> None:
    assert (warm_trainers(Settings(data_dir=tmp_path, **said), inventory) is not None) == has
