"""`python -m bench.contenders NAME CASE`: a way to train the same LoRA, in a process of its own, step by step as told.

    ours   the trainer's own program
    trl    TRL's SFTTrainer as its documentation has it
    bare   a PyTorch loop as one writes it for this very case: the limit

A number of steps comes in on stdin, and what they took goes out on stdout, so that contenders can take turns.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RANK = 16
LEARNING_RATE = 2e-4
WARM_UP_STEPS = 1
SEED = 1
_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
#: More than there will be: contenders are ended by their stdin.
MOST_STEPS = 500


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained on; every contender makes steps of about as many tokens."""

    model: str
    rows: str
    """A JSON Lines file of `text`."""
    length: int
    """Tokens that a row has at most."""
    examples: int
    """Of a step."""
    packed: bool
    pass_rows: int
    """Rows of a pass, for the contenders that have to be told."""
    precision: str = "bf16"
    """Or fp32."""
    checkpointing: bool = False
    """TRL's default, and nobody else's."""

    @property
    def passes(self) -> int:
        """Of a step, without packing."""
        return self.examples // self.pass_rows


@dataclass(frozen=True, slots=True)
class Turn:
    """What some steps took."""

    tokens: int
    """Of the texts; padding is not counted."""
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """The most memory that was ever resident in this process."""


class Pace:
    """Makes steps as stdin asks for them: `made` returns when another one is wanted.

    Args:
        answers: where what they took is written to, a line of JSON each.
    """

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._left = WARM_UP_STEPS
        self._begin()

    def _begin(self) -> None:
        self._tokens, self._began, self._cpu_began = 0, time.perf_counter(), time.process_time()

    def made(self, tokens: int) -> None:
        """A step of so many tokens was made.

        Raises:
            SystemExit: no more are wanted.
        """
        self._tokens += tokens
        self._left -= 1
        if self._left:
            return
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        took, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu_began
        self._answers.write(json.dumps(asdict(Turn(self._tokens, took, cpu, peak))) + "\n")
        self._answers.flush()
        wanted = sys.stdin.readline()
        if not wanted:
            raise SystemExit(0)
        self._left = json.loads(wanted)["steps"]
        self._begin()


def ours(case: Case, pace: Pace) -> None:
    """The trainer's own program, reports and curves included, from its assignment on."""
    from agent.trainer import isolation, training
    from agent.trainer.reports import Reports

    isolation.leave_out_libraries(quantizing=False)
    isolation.isolate(())
    from agent.trainer import train

    class Paced(train.Trainer):
        def run(self, on_step: Callable[[train.Step], None], *more: Any) -> Any:
            def paced(step: train.Step) -> None:
                on_step(step)
                pace.made(step.tokens)

            return super().run(paced, *more)

    train.Trainer = Paced  # type: ignore[misc]
    tuning = {
        "learning_rate": LEARNING_RATE,
        "batch_size": case.examples,
        "max_steps": MOST_STEPS,
        "max_sequence_length": case.length,
        "packing": case.packed,
        "seed": SEED,
    }
    spec = {
        "base_model": {"provider": "local", "model_name": case.model},
        "customization": {"method": "lora", "rank": RANK, "precision": case.precision},
        "datasets": [{"source": Path(case.rows).as_uri()}],
        "tuning_parameters": tuning,
    }
    directory = Path(case.rows).with_suffix(f".{case.examples}-{case.packed}")
    directory.mkdir()
    document = {"uid": "bench", "job_id": "bench", "devices": [], "spec": spec}
    training.train_attempt(document, directory, Reports(directory))


def trl(case: Case, pace: Pace) -> None:
    """SFTTrainer; all that is not said here is its own default."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Counting(SFTTrainer):  # type: ignore[misc]
        tokens = 0

        def training_step(self, model: Any, inputs: dict[str, Any], *more: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
            return super().training_step(model, inputs, *more)

    class Pacing(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            tokens, trainer.tokens = trainer.tokens, 0
            pace.made(tokens)

    arguments = SFTConfig(
        use_cpu=True,
        output_dir=str(Path(case.rows).with_suffix(".trl")),
        model_init_kwargs={"dtype": _DTYPES[case.precision]},
        bf16=case.precision == "bf16",
        per_device_train_batch_size=case.pass_rows,
        gradient_accumulation_steps=1 if case.packed else case.passes,
        gradient_checkpointing=case.checkpointing,
        packing=case.packed,
        max_length=case.length,
        learning_rate=LEARNING_RATE,
        max_steps=MOST_STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )
    trainer = Counting(
        model=case.model,
        args=arguments,
        train_dataset=load_dataset("json", data_files=case.rows, split="train"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"),
        callbacks=[Pacing()],
    )
    trainer.train()


def bare(case: Case, pace: Pace) -> None:
    """A loop that knows that there is one device, one dataset, one method and no failure."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(case.model)
    texts = [json.loads(line)["text"] for line in Path(case.rows).read_text().splitlines()]
    documents = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(case.model, dtype=_DTYPES[case.precision]), config)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    for batch in _batches(documents, case):
        trained = sum(len(document) - 1 for row in batch for document in row)
        for start in range(0, len(batch), case.pass_rows):
            ids, targets, positions = (
                torch.tensor(table) for table in _table(batch[start : start + case.pass_rows], pad=0)
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
                # Positions without a mask keep packed documents apart; without packing they are what they would be.
                logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
            (loss / trained).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        pace.made(sum(len(document) for row in batch for document in row))


def _batches(documents: list[list[int]], case: Case) -> Iterator[list[list[list[int]]]]:
    """Rows of documents, of a step each: packed once for all, first fit of the longest first, or one document each."""
    rows = [[document] for document in documents]
    in_a_step = case.examples
    if case.packed:
        rows, in_a_step = [], case.pass_rows
        for document in sorted(documents, key=len, reverse=True):
            fits = (row for row in rows if sum(map(len, row)) + len(document) <= case.length)
            found = next(fits, None)
            if found is None:
                rows.append([document])
            else:
                found.append(document)
    draws = random.Random(SEED)
    while True:
        draws.shuffle(rows)
        for start in range(0, len(rows) - in_a_step + 1, in_a_step):
            yield rows[start : start + in_a_step]


def _table(rows: Sequence[Sequence[Sequence[int]]], *, pad: int) -> tuple[list[list[int]], ...]:
    """Ids, next tokens and positions of a pass, padded on the right to its longest row."""
    width = max(sum(map(len, row)) for row in rows)
    ids, targets, positions = [], [], []
    for row in rows:
        missing = width - sum(map(len, row))
        ids.append([token for document in row for token in document] + [pad] * missing)
        targets.append([token for document in row for token in (*document[1:], -100)] + [-100] * missing)
        positions.append([place for document in row for place in range(len(document))] + list(range(missing)))
    return ids, targets, positions


CONTENDERS: dict[str, Callable[[Case, Pace], None]] = {each.__name__: each for each in (ours, trl, bare)}


def main(name: str, case: Case) -> None:
    """Trains as the contender of that name until stdin ends."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    # As our trainer has it (ADR 0005): threads that spin would cost the others up to three quarters of their speed
    # wherever the machine has something else to do, and nothing of that were the loop's.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print is kept apart from the answers, and from the terminal.
    with Path(f"{case.rows}.{name}.log").open("w") as log:
        errors = os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            CONTENDERS[name](case, Pace(answers))
        except Exception:
            os.dup2(errors, 2)
            raise


if __name__ == "__main__":
    main(sys.argv[1], Case(**json.loads(sys.argv[2])))
