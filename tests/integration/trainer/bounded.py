"""`python -m tests.integration.trainer.bounded MODEL DIRECTORY FILE`: how much memory a corpus takes, from start to epoch.

A process of its own, for what a process has ever held is never given back. To stdout, as JSON: the growth of its peak in
MiB, after a small corpus has gone the same way, and how many examples there were.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from agent.trainer.assignment import DatasetSource, Tuning
from agent.trainer.audit import audit
from agent.trainer.corpus import read_corpus, tokenize_corpus
from agent.trainer.data.order import Portion, effective_batches
from agent.trainer.reports import Unheard
from agent.trainer.resuming import identity

TUNING = Tuning(eval_fraction=0.1, seed=1)
FEW_ROWS = 600


def peak_mib() -> float:
    """The most that this process has held of its own, in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def go_through(file: Path, directory: Path, tokenizer: Any) -> int:
    """Everything that a training does with its data; how many examples it trains on."""
    corpus = read_corpus([DatasetSource(0, file.as_uri())], directory, seed=TUNING.seed)
    tokenize_corpus(corpus, tokenizer, TUNING, max_length=64, reports=Unheard())
    audit(corpus, tokenizer, max_length=64)
    identity("uid", corpus.train, world_size=1, beginning=())
    order = effective_batches([Portion(0, len(corpus.train))], batch_size=8, seed=1)
    for _ in range(len(corpus.train) // 8):
        assert all(len(corpus.train[number]) for number in next(order))
    return len(corpus.train)


def main(model: str, directory: str, name: str) -> None:
    """Measure."""
    from transformers import AutoTokenizer

    tokenizer, file = AutoTokenizer.from_pretrained(model), Path(name)
    few = file.with_name("few.jsonl")
    with file.open() as rows:
        few.write_text("".join(next(rows) for _ in range(FEW_ROWS)))
    go_through(few, Path(directory), tokenizer)
    before = peak_mib()
    examples = go_through(file, Path(directory), tokenizer)
    json.dump({"growth_mib": peak_mib() - before, "examples": examples}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
