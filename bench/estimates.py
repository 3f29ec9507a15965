"""What is estimated before a job, against what came: memory (the trainer's tensors at their fullest), and time.

Time is estimated by what one job alike has measured, which trained a third as long.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path

from bench.report import Line
from tests.support.peaks import Case, estimated_bytes, peak_bytes, write_small_model
from tests.support.stack import ROOT, Stack

NAME = "estimates"
LIMIT = 0.25
FACTOR = 2.0
_JOB_SECONDS = 240.0
_LORA = {"method": "lora", "rank": 16}
_TWO = {**_LORA, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
_FULL = {"method": "full", "peft": {"use": False}}
_FP32_QLORA = {"method": "qlora", "rank": 16, "qlora": {"bnb_4bit_compute_dtype": "float32"}}
_BF16 = {**_LORA, "precision": "bf16"}
_BF16_QLORA = {"method": "qlora", "rank": 16, "precision": "bf16"}
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
    ("llama", Case("LoRA in bf16, rows of 128", _BF16)),
    ("llama", Case("QLoRA in bf16, rows of 128", _BF16_QLORA)),
    ("llama", Case("QLoRA in bf16, gradient checkpointing", _BF16_QLORA, tuning={"gradient_checkpointing": True})),
    ("llama", Case("full in bf16", {**_FULL, "precision": "bf16"})),
    ("llama", Case("OFT in bf16", {"method": "oft", "precision": "bf16"})),
    ("llama", Case("BOFT in bf16", {"method": "boft", "precision": "bf16"}, 64, 4)),
    ("gpt2", Case("LoRA on GPT-2 in bf16", _BF16)),
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
    return [*lines, _time(directory / "stack", Path(models["llama"]))]


def _time(directory: Path, model: Path) -> Line:
    """A job, then the estimate for one alike that trains three times as long, then that one."""
    directory.mkdir()
    rows = "".join(f"{dumps({'text': f'{number} and one are {number + 1}. ' * 6})}\n" for number in range(96))
    (directory / "rows.jsonl").write_text(rows)

    def request(job_id: str, epochs: int) -> bytes:
        return dumps(
            {
                "job_id": job_id,
                "base_model": {"provider": "local", "model_name": str(model)},
                "customization": {"method": "lora", "precision": "fp32"},
                "datasets": [{"source": (directory / "rows.jsonl").as_uri()}],
                "artifacts": {"output_uri": f"file://{directory}/{job_id}/"},
                "tuning_parameters": {"num_epochs": epochs, "batch_size": 8},
            }
        ).encode()

    stack = Stack(directory / "parts")
    try:
        stack.start()
        stack.join("node-1", "--gpus", "0", "--cpus", "2", "--memory-gb", "8")
        _run(stack, "first", request("first", 1))
        estimate = stack.http("POST", "/train:validate", request("second", 3))[1]["estimate"]
        _run(stack, "second", request("second", 3))
    finally:
        stack.stop()
    took = loads((directory / "second" / "provenance.json").read_bytes())["training"]["seconds"]
    found = estimate.get("seconds", 0.0)
    return Line(
        NAME,
        "training time after one job alike, a third as long",
        f"{found:.1f} s estimated",
        f"within a factor of {FACTOR:g}",
        passed=1 / FACTOR <= found / took <= FACTOR,
        reference=f"{took:.1f} s taken",
        ratio=found / took,
    )


def _run(stack: Stack, job_id: str, body: bytes) -> None:
    status, answer = stack.http("POST", "/train", body)
    assert status == 200, answer
    end = time.monotonic() + _JOB_SECONDS
    while (job := stack.http("GET", f"/train/{job_id}")[1])["state"] not in {"SUCCEEDED", "FAILED"}:
        assert time.monotonic() < end, f"{job_id} is {job['state']} after {_JOB_SECONDS} s"
        time.sleep(0.2)
    assert job["state"] == "SUCCEEDED", job["message"]


def _both(model: Path, case: Case) -> dict[str, float]:
    return {"estimated": estimated_bytes(model, case), "measured": peak_bytes(model, case)}


if __name__ == "__main__":
    print(dumps(_both(Path(sys.argv[1]), Case(**loads(sys.argv[2])))), flush=True)
