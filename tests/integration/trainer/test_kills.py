"""Killed at any instant, a training goes on at another node to the very bytes of one that never was.

`make sweep` runs all of it; here are a few kills of each kind. A kill is drawn from the seed, which is printed.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from agent.storage.access import Access
from tests.integration.trainer.attempts import Attempt
from tests.integration.trainer.drawing import DRAWING
from tests.integration.trainer.killed_node import Node, Place
from tests.integration.trainer.warm import train
from tests.support.aws import CREDENTIALS, Aws, running_aws, store
from trainplane.backends.peft_methods import METHODS as METHODS_OF_THE_SPEC

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.s3_door import Fault

__all__ = ["running_aws", "store"]

STEPS = 24
EVERY = 3
SEED = int(os.environ.get("SWEEP_SEED", "17"))
WHOLE_SWEEP = os.environ.get("SWEEP", "") == "whole"
#: `customization` of each, in fp32 unless it says otherwise.
METHODS: dict[str, dict[str, Any]] = {
    **{method: {"method": method, **DRAWING.get(method, {})} for method in METHODS_OF_THE_SPEC},
    "olora": {"method": "lora", "lora_dropout": 0.2, "peft": {"config": {"init_lora_weights": "olora"}}},
    "bf16": {"method": "lora", "lora_dropout": 0.2, "precision": "bf16"},
}
#: Kind of instant -> how many of the whole sweep's, and of the few.
KINDS = {"any": (16, 1), "while writing": (9, 1), "while storing": (9, 1), "in a request": (4, 0)}
WRITING = ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "rename"]
STORING = ["optimizer.safetensors", "state.json", "weights.safetensors"]


@dataclass(frozen=True, slots=True)
class Kill:
    """One instant at which a node is lost."""

    method: str
    kind: str
    fraction: float
    """Of `any`: of the time from the first step to the output of a training that is not killed."""
    step: int
    """A checkpoint's, of the other kinds."""
    file: str
    far: bool
    """In S3; else in a directory that nodes share."""
    twice: float
    """The attempt that goes on is killed too, at that fraction; 0: it is not."""


def drawn(seed: int, *, whole: bool) -> list[Kill]:
    """The same for a seed. Every method has its turn."""
    dice = random.Random(seed)
    kinds = [kind for kind, (many, few) in KINDS.items() for _ in range(many if whole else few)]
    methods = list(METHODS) * (len(kinds) // len(METHODS) + 1)
    if not whole:
        methods = ["lora"] * len(kinds)
    kills = []
    for number, kind in enumerate(kinds):
        files = WRITING if kind == "while writing" else STORING
        kills.append(
            Kill(
                method=methods[number],
                kind=kind,
                fraction=round(dice.random(), 3),
                step=dice.randrange(EVERY, STEPS - EVERY, EVERY),
                file=files[number % len(files)],
                far=kind == "in a request" or (whole and number % 4 == 0),
                twice=round(dice.random(), 3) if kind == "any" and number % 2 == 0 else 0.0,
            )
        )
    return kills


class Sweep:
    """Trainings that are killed and go on, each compared with one that was not."""

    def __init__(self, folder: Callable[[str], Path], model: Path, aws: Callable[[], Aws]) -> None:
        self.folder = folder
        self.model = model
        self.aws = aws
        self.rows = folder("rows") / "rows.jsonl"
        dice = random.Random(1)
        words = [" ".join(str(dice.randint(0, 99)) for _ in range(dice.randint(2, 40))) for _ in range(40)]
        rows = [{"prompt": f"Say {number}: ", "completion": said} for number, said in enumerate(words)]
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.happened: Counter[str] = Counter()
        self._whole: dict[str, tuple[Attempt, float]] = {}

    def attempt(self, method: str, number: int) -> Attempt:
        made = Attempt(self.folder("attempt"), self.model)
        customization = METHODS[method]
        prompt = METHODS_OF_THE_SPEC[customization["method"]].prompt
        tuning = {"batch_size": 4, "max_steps": STEPS, "checkpoint_steps": EVERY, "learning_rate": 1e-3}
        packed = {} if prompt else {"packing": True, "neftune_noise_alpha": 5}
        made.assign(tuning_parameters={**tuning, **packed, "eval_fraction": 0.1})
        path = made.directory / "assignment.json"
        document = json.loads(path.read_text())
        document["spec"]["customization"] = {"precision": "fp32", **customization}
        document["spec"]["datasets"] = [{"source": self.rows.as_uri()}]
        path.write_text(json.dumps({**document, "attempt": number}))
        return made

    def whole(self, method: str) -> tuple[Attempt, float]:
        """One that was never killed, and the seconds from its first step to its output."""
        if method not in self._whole:
            attempt = self.attempt(method, 1)
            assert train(attempt.directory) == 0, attempt.reports[-1]
            times = [each["time"] for each in attempt.reports]
            began = next(each["time"] for each in attempt.reports if each.get("phase") == "TRAINING")
            self._whole[method] = attempt, _seconds(times[-1]) - _seconds(began)
        return self._whole[method]

    async def survive(self, number: int, kill: Kill) -> str:
        """Carry one out; in words, what happened."""
        whole, seconds = self.whole(kill.method)
        place = self._place(number, far=kill.far)
        said = []
        for attempt in range(1, 4):
            fraction = {1: kill.fraction, 2: kill.twice}.get(attempt, 0.0)
            kind = kill.kind if attempt == 1 else "any"
            if attempt == 1 or fraction:
                said.append(await self._lose(kill, kind, attempt, place, fraction * seconds))
                continue
            last = Node(self.attempt(kill.method, attempt), attempt, place)
            assert last.train() == 0, last.attempt.reports[-1]
            assert last.attempt.provenance["training"]["resumed_from"] == last.resumes_from
            self.happened["goes on from a checkpoint" if last.resumes_from else "begins anew"] += 1
            assert _results(last.attempt) == _results(whole), kill
            return ", ".join([*said, f"went on from step {last.resumes_from} to the same bytes"])
        raise AssertionError("there is always a last attempt")

    async def _lose(self, kill: Kill, kind: str, number: int, place: Place, seconds: float) -> str:
        """Lose a node; an instant that came too late is drawn nearer, for a training's speed varies."""
        while True:
            over = threading.Event()
            held = self.aws().door.hold("PutObject", until=over) if kind == "in a request" else None
            if held is not None:
                held.skip = kill.step  # so many requests pass
            node = Node(self.attempt(kill.method, number), number, place, **_place_to_die(kill, kind))
            lost = await node.die(_instant(kind, seconds, held))
            unanswered = held is not None and held.holding > 0
            over.set()
            if held is not None:
                self.aws().door.reset()
            whole, torn, writing = place.whole(), place.torn(), node.was_writing()
            node.lose_disk()
            if lost:
                break
            seconds, kill = seconds / 2, replace(kill, step=max(kill.step - EVERY, EVERY))
        self.happened["kills"] += 1
        self.happened[f"killed {kind}" if kind != "any" else "killed at any instant"] += 1
        self.happened["a checkpoint was being written"] += writing
        self.happened["a checkpoint was stored in part"] += torn
        self.happened["a request to the object store was unanswered"] += unanswered
        where = (
            f"at {seconds:.3f} s"
            if kind == "any"
            else f"{kill.file} of step {kill.step}"
            if held is None
            else f"put {kill.step}"
        )
        return f"attempt {number} killed {kind} ({where}), stored {whole}"

    def _place(self, number: int, *, far: bool) -> Place:
        if far:
            return Place(f"s3://bucket/{number}/", self.aws().access(), CREDENTIALS)
        return Place(self.folder("store").as_uri(), Access(), {})


def _instant(kind: str, seconds: float, held: Fault | None) -> Callable[[Node], bool]:
    """When a node is lost that does not die by itself."""
    if held is not None:
        return lambda _node: held.holding > 0
    if kind == "any":
        return lambda node: node.training_seconds() >= seconds
    return lambda _node: False


def _place_to_die(kill: Kill, kind: str) -> dict[str, Any]:
    if kind == "while writing":
        return {"dies_at": f"trainer.checkpoint-{kill.step}.{kill.file}"}
    if kind == "while storing":
        return {"dies_at": f"uploader.checkpoint-{kill.file}", "from_step": kill.step}
    return {}


def _results(attempt: Attempt) -> tuple[Any, ...]:
    files = sorted(attempt.output.glob("*.safetensors"))
    assert files
    return attempt.provenance["losses"], [(path.name, path.read_bytes()) for path in files]


def _seconds(rfc3339: str) -> float:
    return datetime.fromisoformat(rfc3339).timestamp()


@pytest.mark.timeout(3600 if WHOLE_SWEEP else 180)
async def test_a_training_survives_every_kill(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
):
    if WHOLE_SWEEP:
        request.getfixturevalue("store")
    sweep = Sweep(tmp_path_factory.mktemp, tiny_model, lambda: request.getfixturevalue("store"))
    kills = drawn(SEED, whole=WHOLE_SWEEP)
    for number, kill in enumerate(kills):
        words = await sweep.survive(number, kill)
        with capsys.disabled():
            print(f"\n  seed {SEED} kill {number} {kill.method}{' S3' if kill.far else ''}: {words}", end="")  # noqa: T201
    with capsys.disabled():
        print(f"\n  seed {SEED}: " + ", ".join(f"{count} {what}" for what, count in sorted(sweep.happened.items())))  # noqa: T201
    happened = sweep.happened
    assert happened["kills"] >= len(kills)
    for kind in ("while writing", "while storing", "in a request"):
        assert happened[f"killed {kind}"] == KINDS[kind][0 if WHOLE_SWEEP else 1]
    assert happened["a checkpoint was being written"] >= happened["killed while writing"] >= (5 if WHOLE_SWEEP else 1)
    assert happened["a checkpoint was stored in part"] >= happened["killed while storing"] >= (5 if WHOLE_SWEEP else 1)
    in_requests = happened["a request to the object store was unanswered"]
    assert in_requests >= happened["killed in a request"] >= (4 if WHOLE_SWEEP else 0)
    assert happened["goes on from a checkpoint"] >= len(kills) // 2
