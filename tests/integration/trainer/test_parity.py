"""An oracle that we have not written: TRL's SFTTrainer takes the same steps to the same adapter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.trainer.attempts import Attempt

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and Trainer's
STEPS = 6
SEED = 7
RATE = 1e-2
TEXTS = [{"text": f"What is {n}? " + "It is a number. " * (n % 5) + f"It is {n}."} for n in range(8)]
ANSWERS = [{"prompt": f"What is {n}?", "completion": f" It is {n}." + " Yes, it is." * (n % 4)} for n in range(8)]


def of_trl(model: Path, rows: list[dict[str, str]], directory: Path, **changes: Any) -> tuple[list[float], Any]:
    """TRL's losses, and its adapter."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(SEED)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    arguments = SFTConfig(
        output_dir=str(directory),
        use_cpu=True,
        bf16=False,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        **changes,
    )
    trainer = SFTTrainer(
        model=get_peft_model(base, config),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, get_peft_model_state_dict(trainer.model)


@pytest.mark.parametrize("rows", [TEXTS, ANSWERS], ids=["texts", "answers"])
@pytest.mark.parametrize("passes", [1, 4])
def test_losses_and_adapter_are_trl_s(attempt: Attempt, rows: list[dict[str, str]], passes: int):
    tuning = {"batch_size": len(rows), "max_steps": STEPS, "seed": SEED, "learning_rate": RATE}
    attempt.assign(rows=rows, tuning_parameters={**tuning, "lr_scheduler": "constant"})
    assert attempt.run() == 0, attempt.reports[-1]
    ours = load_file(attempt.output / "adapter_model.safetensors")
    losses, theirs = of_trl(
        attempt.model,
        rows,
        attempt.directory / "trl",
        per_device_train_batch_size=len(rows) // passes,
        gradient_accumulation_steps=passes,
    )
    points = [report["series"]["loss"] for report in attempt.said("metrics")]
    assert [loss for series in points for loss in series] == pytest.approx(losses, abs=2e-4)
    assert losses[-1] < 0.9 * losses[0]
    assert set(ours) == set(theirs), json.dumps(sorted(set(ours) ^ set(theirs)))
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=1e-3, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}"
        )
