"""Ranks on two nodes: two trainers, in directories that share nothing but the address where they meet."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from agent.checkpoint import newest_first
from tests.integration.trainer.attempts import Attempt
from tests.integration.trainer.process import starting
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRAINER = "agent.trainer"
STARTED_SECONDS = 160.0
"""Two ranks import torch and peft on a machine of two cores that runs other tests too."""
STEPS = 4000
"""More than are made before somebody says stop."""


@pytest.fixture
def nodes(tmp_path: Path, tiny_model: Path) -> tuple[Attempt, Attempt]:
    """Two nodes' attempts of one rank each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = []
    for node in (0, 1):
        (tmp_path / f"n{node}").mkdir()
        attempt = Attempt(tmp_path / f"n{node}", tiny_model)
        attempt.assign(tuning_parameters={"max_steps": STEPS, "checkpoint_steps": STEPS})
        path = attempt.directory / "assignment.json"
        gang = {"nodes": 2, "node": node, "first_rank": node, "address": "127.0.0.1", "port": port, "interface": "lo"}
        path.write_text(json.dumps({**json.loads(path.read_text()), "world_size": 2, "gang": gang}))
        made.append(attempt)
    return made[0], made[1]


@pytest.fixture
def start() -> Iterator[object]:
    yield from starting()


@pytest.mark.timeout(600)
async def test_a_stop_on_one_node_stops_all_after_the_same_step_and_the_first_keeps_it(nodes, start):
    first, second = nodes
    processes = [start(TRAINER, attempt.directory) for attempt in nodes]
    await eventually(lambda: "progress" in processes[0].kinds(), deadline_seconds=STARTED_SECONDS)
    processes[1].popen.send_signal(signal.SIGTERM)

    assert processes[0].wait(60) == 1
    last = first.reports[-1]
    assert (last["kind"], last["reason"]) == ("failed", "PREEMPTED")
    assert last["message"] == "the ranks on another node were told to stop; the state until then is kept"
    [kept] = newest_first([first.directory / "checkpoints"])
    assert 1 <= int(kept.name) < STEPS
    assert [report["kind"] for report in second.reports] == ["started"]
    processes[1].popen.kill()


@pytest.mark.timeout(600)
async def test_the_ranks_of_a_node_end_with_it_and_the_others_wait_to_be_told_why(nodes, start):
    first, second = nodes
    processes = [start(TRAINER, attempt.directory) for attempt in nodes]
    await eventually(lambda: "progress" in processes[0].kinds(), deadline_seconds=STARTED_SECONDS)
    [rank] = processes[1].ranks().values()
    rank.kill()

    assert processes[1].wait(60) == 1
    said = second.reports[-1]
    assert (said["kind"], said["reason"]) == ("failed", "TRAINER_CRASHED")
    assert said["message"].startswith("rank 1 was ended by SIGKILL")
    await eventually(lambda: "lost a rank" in processes[0].log, deadline_seconds=60)
    assert processes[0].popen.poll() is None
    assert first.said("failed") == []
    (first.directory / "stop.json").write_text('{"reason": "PEER_ENDED", "checkpoint": false}')
    processes[0].popen.send_signal(signal.SIGTERM)
    assert processes[0].wait(30) == 143
