"""A model that is sharded over nodes: two trainers, in directories that share nothing, have a part of it each."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.integration.trainer import forked_ranks
from tests.integration.trainer.attempts import Attempt
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODES = 2
SECONDS = 250.0
"""For a training of some steps, on a machine of two cores that runs other tests too."""
ROWS = [{"prompt": f"What is {n}? ", "completion": f"It is {n}." + " Yes, it is." * (n % 5)} for n in range(25)]
LORA = {"method": "lora", "rank": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "precision": "fp32"}
FULL = {"method": "full", "precision": "fp32"}
TUNING = {"sharding": "full", "checkpoint_steps": 2, "max_steps": 5}

pytestmark = pytest.mark.timeout(900)


class Nodes:
    """A gang's attempts, one for each node with one rank, and the leaders that train them."""

    def __init__(self, directory: Path, model: Path) -> None:
        self._directory = directory
        self._model = model
        self._leaders: list[Any] = []
        self._count = 0

    def attempt(self, name: str, **changes: Any) -> Attempt:
        """One on one node, with as many ranks as the gang."""
        directory = self._directory / name
        directory.mkdir()
        made = Attempt(directory, self._model)
        made.assign(rows=ROWS, **changes)
        self._extend(made, {"world_size": NODES})
        return made

    def gang(self, *, resume_from: Path | None = None, **changes: Any) -> list[Attempt]:
        """One on several nodes; only the first may look at what there is to go on from."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._count += 1
        made = []
        for node in range(NODES):
            attempt = self.attempt(f"gang-{self._count}-{node}", **changes)
            gang = {"nodes": NODES, "node": node, "first_rank": node, "address": "127.0.0.1", "port": port}
            document: dict[str, Any] = {"gang": {**gang, "interface": "lo"}, "attempt": self._count}
            if resume_from is not None and node == 0:
                document["resume_from"] = str(resume_from)
            self._extend(attempt, document)
            made.append(attempt)
        return made

    @staticmethod
    def _extend(attempt: Attempt, more: dict[str, Any]) -> None:
        path = attempt.directory / "assignment.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))

    def start(self, attempts: list[Attempt], *, dies_at: str = "") -> list[Any]:
        """The nodes' leaders, which fork their ranks; those of the last node may die somewhere."""
        for attempt in attempts:
            self._leaders.append(
                forked_ranks.lead(attempt.directory, failpoint=dies_at if attempt is attempts[-1] else "")
            )
        return self._leaders[-len(attempts) :]

    def train(self, attempts: list[Attempt]) -> Attempt:
        """Train to the end; the first node's attempt, which has the output. Then the others are told to stop."""
        first, *others = self.start(attempts)
        first.join(SECONDS)
        assert first.exitcode == 0, (attempts[0].directory / "logs" / "rank-0.log").read_text()
        for each in others:
            assert each.exitcode is None
            each.terminate()
            each.join(30)
            assert each.exitcode == 143
        assert not any(each.output.exists() or (each.directory / "checkpoints").exists() for each in attempts[1:])
        return attempts[0]

    def end(self) -> None:
        for leader in self._leaders:
            if leader.is_alive():
                for child in psutil.Process(leader.pid).children():
                    child.kill()
                leader.kill()
            leader.join()


@pytest.fixture
def nodes(tmp_path: Path, tiny_model: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path, tiny_model)
    yield made
    made.end()


def published(attempt: Attempt) -> bytes:
    [path] = attempt.output.glob("*model.safetensors")
    return path.read_bytes()


def test_two_nodes_train_what_two_ranks_of_one_node_would_to_the_byte(nodes: Nodes):
    chosen = {"customization": LORA, "export": {"merged": True}, "tuning_parameters": {**TUNING, "max_steps": 3}}
    together, alone = nodes.train(nodes.gang(**chosen)), nodes.attempt("alone", **chosen)
    forked_ranks.train(alone.directory, ranks=NODES, seconds=SECONDS)

    assert published(together) == published(alone)
    merged = "merged/model.safetensors"
    assert (together.output / merged).read_bytes() == (alone.output / merged).read_bytes()
    told, expected = together.provenance, alone.provenance
    assert told["losses"] == expected["losses"]
    assert told["training"]["sharding"] == expected["training"]["sharding"]
    assert told["training"]["sharding"]["kind"] == "full"
    whole = told["training"]["sharding"]["parameter_bytes"]
    assert [each["rank"] for each in told["ranks"]] == [0, 1]
    assert all(each["parameter_bytes"] < 0.6 * whole for each in told["ranks"])


async def test_a_rank_that_dies_on_the_other_node_is_the_news_and_all_go_on_to_the_same_bytes(nodes: Nodes):
    chosen = {"customization": FULL, "tuning_parameters": TUNING}
    alone = nodes.attempt("alone", **chosen)
    forked_ranks.train(alone.directory, ranks=NODES, seconds=SECONDS)

    attempts = nodes.gang(**chosen)
    # While the first node gathers its part for a checkpoint, which it is in the midst of writing.
    first, other = nodes.start(attempts, dies_at="trainer.giving-4")
    other.join(SECONDS)
    assert other.exitcode == 1
    said = attempts[1].reports[-1]
    assert (said["kind"], said["reason"]) == ("failed", "TRAINER_CRASHED")
    assert said["message"].startswith("rank 1 was ended by SIGKILL")
    log = attempts[0].directory / "logs" / "rank-0.log"
    await eventually(lambda: "lost a rank" in log.read_text(), deadline_seconds=60)
    assert first.exitcode is None
    assert attempts[0].said("failed") == []
    (attempts[0].directory / "stop.json").write_text('{"reason": "PEER_ENDED", "checkpoint": false}')
    first.terminate()
    first.join(30)
    assert first.exitcode == 143

    resumed = nodes.train(nodes.gang(resume_from=attempts[0].directory / "checkpoints", **chosen))
    assert resumed.provenance["training"]["resumed_from"] == 2
    assert resumed.provenance["losses"] == alone.provenance["losses"]
    assert published(resumed) == published(alone)
