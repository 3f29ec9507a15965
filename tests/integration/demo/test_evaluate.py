"""The measurement itself, on a model small enough to be checked by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.tiny_models import write_tiny_model
from trainplane.demo import evaluate

ROWS = [
    [{"role": "user", "content": "What is two and two?"}, {"role": "assistant", "content": "Four."}],
    [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A small model, and every event of a job has a number."},
    ],
]
PROBE = {"system": "Answer.", "question": "What is the capital of France?", "keyword": "Paris"}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory, model_dir):
    """An adapter that does something: PEFT's own start would change nothing."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp("adapters") / "adapter"
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(place)
    return place


def test_the_loss_is_the_mean_over_answer_tokens_whatever_the_padding(model_dir):
    import torch

    model, tokenizer = evaluate.load(model_dir, adapter_dir=None)
    total, count = 0.0, 0
    for row in ROWS:
        prompt = tokenizer(
            tokenizer.apply_chat_template(row[:-1], add_generation_prompt=True, tokenize=False)
        ).input_ids
        whole = tokenizer(tokenizer.apply_chat_template(row, tokenize=False)).input_ids
        assert whole[: len(prompt)] == prompt
        with torch.inference_mode():
            words = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        for position in range(len(prompt), len(whole)):
            total -= words[position - 1, whole[position]].item()
            count += 1
    loss, tokens = evaluate.heldout_loss(model, tokenizer, ROWS)
    assert tokens == count
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_a_fresh_process_measures_base_and_adapter_apart(tmp_path, model_dir, adapter_dir):
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in ROWS))
    (tmp_path / "probe.json").write_text(json.dumps(PROBE))
    command = [sys.executable, "-m", "trainplane.demo.evaluate", "--model", model_dir]
    command += ["--heldout", tmp_path / "heldout.jsonl", "--probe", tmp_path / "probe.json"]

    def measured(*more):
        done = subprocess.run([*command, *more], capture_output=True, check=True, timeout=120)
        return json.loads(done.stdout)

    base, adapted = measured(), measured("--adapter", adapter_dir)
    assert base["loss"] != pytest.approx(adapted["loss"], rel=1e-3)
    for result in (base, adapted):
        assert result.keys() == {"loss", "tokens", "answer", "contains_keyword", "seconds"}
        assert result["contains_keyword"] == evaluate.contains_keyword(result["answer"], "Paris")
        assert result["tokens"] == base["tokens"]
