"""Memory as it is estimated before a job, against what the trainer's own tensors come to at their fullest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path

from bench.report import Line
from tests.support.peaks import Case, estimated_bytes, peak_bytes, write_small_model
from tests.support.stack import ROOT

NAME = "estimates"
LIMIT = 0.25
_LORA = {"method": "lora", "rank": 16}
_TWO = {**_LORA, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
_FULL = {"method": "full", "peft": {"use": False}}
_FP32_QLORA = {"method": "qlora", "rank": 16, "qlora": {"bnb_4bit_compute_dtype": "float32"}}
CASES = (
    ("llama", Case("LoRA, rows of 128 tokens", _LORA)),
    ("llama", Case("LoRA of two modules, rows of 512, dropout", _TWO, 512, 4)),
    ("llama", Case("LoRA, gradient checkpointing", _LORA, tuning={"gradient_checkpointing": True})),
    ("llama", Case("QLoRA", _FP32_QLORA)),
    ("llama", Case("DoRA, rows of 64", {"method": "dora", "rank": 16}, 64)),
    ("llama", Case("full, one pass a step", _FULL, batch_size=2)),
    ("llama", Case("full, gradient checkpointing", _FULL, tuning={"gradient_checkpointing": True})),
    ("llama", Case("prompt tuning", {"method": "prompt_tuning"})),
    ("gpt2", Case("LoRA on GPT-2", _LORA)),
)


def measure(directory: Path) -> list[Line]:
    """Measures each in a process of its own."""
    models = {name: str(write_small_model(directory / name, architecture=name)) for name in ("llama", "gpt2")}
    lines = []
    for architecture, case in CASES:
        command = [sys.executable, "-m", "bench.estimates", models[architecture], dumps(asdict(case))]
        ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
        found = loads(ran.stdout.splitlines()[-1])
        ratio = found["estimated"] / found["measured"]
        lines.append(
            Line(
                NAME,
                f"memory of {case.name}",
                f"{found['estimated'] / 1e6:.1f} MB estimated",
                f"within {LIMIT:.0%} of it",
                passed=abs(ratio - 1) <= LIMIT,
                reference=f"{found['measured'] / 1e6:.1f} MB measured",
                ratio=ratio,
            )
        )
    return lines


def _both(model: Path, case: Case) -> dict[str, float]:
    return {"estimated": estimated_bytes(model, case), "measured": peak_bytes(model, case)}


if __name__ == "__main__":
    print(dumps(_both(Path(sys.argv[1]), Case(**loads(sys.argv[2])))), flush=True)
