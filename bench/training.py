"""Real tokens a second and memory of our trainer, against TRL's SFTTrainer and against a bare PyTorch loop.

    same model, rows, adapter, precision, tokens a step ──► ours │ trl │ bare: a process each, a step each in turns

The model is real (SmolLM2-135M), because what a step spends outside of its matrices is what differs between trainers.
TRL recomputes activations unless told not to. It is told not to, as ours and the loop do not, except where packing is
measured: there its own default stands beside it. What is computed in is bf16, and fp32 on a CPU that has no bf16.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from bench.contenders import Case, Turn
from bench.peers import peer
from bench.report import Line
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

NAME = "training"
TURNS = 3
STEPS_PER_TURN = 1
LENGTH = 256
ROWS = 400
#: Examples of a step: all of LENGTH, or of mixed lengths, which come to about as many tokens.
EQUAL, MIXED = 4, 8
LEAST_OF_BARE = 0.95
LEAST_OF_TRL = 1.0
LEAST_OF_TRL_PACKED = 1.9
#: Of the logarithm of the lengths of mixed rows: most are short, as answers are.
_MU, _SIGMA = 4.7, 0.75
_SHORTEST = 16
_BY_DEFAULT = "trl-default"


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a contender's turns took."""

    turns: list[Turn]

    @property
    def speed(self) -> float:
        """Tokens a second, the median of the turns."""
        return statistics.median(turn.tokens / turn.seconds for turn in self.turns)

    def text(self) -> str:
        of_cpu = statistics.median(turn.tokens / turn.cpu_seconds for turn in self.turns)
        return f"{self.speed:,.0f} tokens/s ({of_cpu:,.0f} a CPU second), peak {self.turns[-1].peak_bytes / 1e9:.2f} GB"


def measure(directory: Path) -> Iterator[Line]:
    """Case after case, all contenders of one at once; each computes in its turn only."""
    directory.mkdir(parents=True)
    model = directory / "model"
    subprocess.run(
        [sys.executable, "-m", "trainplane.demo.model", str(model)], cwd=ROOT, check=True, capture_output=True
    )
    draws = random.Random(1)
    mixed = [max(_SHORTEST, min(LENGTH, round(draws.lognormvariate(_MU, _SIGMA)))) for _ in range(ROWS)]
    equal_rows = _write_rows(directory / "equal.jsonl", model, [LENGTH] * ROWS)
    mixed_rows = _write_rows(directory / "mixed.jsonl", model, mixed)
    equal = Case(str(model), equal_rows, LENGTH, EQUAL, packed=False, pass_rows=EQUAL, precision=_precision())
    unpacked = replace(equal, rows=mixed_rows, examples=MIXED, pass_rows=MIXED)
    packed = replace(unpacked, packed=True, pass_rows=EQUAL)
    lengths = f"{_SHORTEST} to {LENGTH} tokens"
    yield from _lines(f"{EQUAL} rows of {LENGTH} tokens a step", equal)
    yield from _lines(f"{MIXED} rows of {lengths} a step", unpacked)
    yield from _lines(f"rows of {lengths}, packed, {EQUAL} x {LENGTH} tokens a step", packed)


def _lines(what: str, case: Case) -> list[Line]:
    contenders = {name: (name, case) for name in ("ours", "trl", "bare")}
    if case.packed:
        contenders[_BY_DEFAULT] = ("trl", replace(case, checkpointing=True))
    taken = _race(contenders)
    ours = taken["ours"]
    against = [("trl", "TRL's SFTTrainer", LEAST_OF_TRL), ("bare", "a bare PyTorch loop", LEAST_OF_BARE)]
    if case.packed:
        default = "TRL's SFTTrainer with its own default, gradient checkpointing"
        against = [(_BY_DEFAULT, default, LEAST_OF_TRL_PACKED), *against]
    return [
        Line(
            NAME,
            f"SmolLM2-135M, LoRA of rank 16 on all linear layers, {case.precision}, {what}: real tokens a second",
            ours.text(),
            f"at least {limit:g} of the reference's",
            passed=ours.speed >= limit * taken[name].speed,
            reference=f"{called}: {taken[name].text()}",
            ratio=ours.speed / taken[name].speed,
        )
        for name, called, limit in against
    ]


def _precision() -> str:
    from agent.trainer.device import computes_bf16

    return "bf16" if computes_bf16() else "fp32"


def _race(contenders: dict[str, tuple[str, Case]]) -> dict[str, _Taken]:
    """Some turns of each; what a contender does before its first measured step is not counted."""
    with ExitStack() as opened:
        peers = {
            label: opened.enter_context(peer("bench.contenders", name, json.dumps(asdict(case))))
            for label, (name, case) in contenders.items()
        }
        for each in peers.values():
            _turn(each.answer)
        turns: dict[str, list[Turn]] = {label: [] for label in peers}
        for _ in range(TURNS):
            for label, each in peers.items():
                each.tell({"steps": STEPS_PER_TURN})
                turns[label].append(_turn(each.answer))
    return {label: _Taken(made) for label, made in turns.items()}


def _turn(answer: Callable[[], Any]) -> Turn:
    return Turn(**answer())


def _write_rows(path: Path, model: Path, lengths: Sequence[int]) -> str:
    """Texts of so many tokens each, the end's included: words that are one token wherever they stand."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    words = [word for word in map(tokenizer.decode, ([number] for number in range(300, 8000))) if _is_word(word)]
    draws = random.Random(2)
    texts = ["".join(draws.choices(words, k=length - 1)) for length in lengths]
    found = [len(tokenizer.encode(text).ids) + 1 for text in texts]
    assert found == list(lengths), "a text has another number of tokens than it has words"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def _is_word(text: str) -> bool:
    return text.startswith(" ") and text[1:].isalpha() and text.isascii()
