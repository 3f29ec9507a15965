"""What a model knows: its loss on held-out rows, and its answer to one question.

    python -m trainplane.demo.evaluate --model DIR [--adapter DIR] --heldout FILE --probe FILE

A process of its own that uses plain transformers and `PeftModel`, and nothing of trainplane's: what it measures
is what any reader of the published adapter gets. The probe is `{"system", "question", "keyword"}`. Prints one JSON
object: `loss`, `tokens`, `answer`, `contains_keyword`, `seconds`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 40
#: Rows per forward pass: bounds the logits (rows x tokens x 49,152 words) to about 100 MB.
ROWS_PER_PASS = 8
#: What the loss leaves out, by torch's convention.
IGNORED = -100


def read_rows(path: Path) -> list[list[dict[str, str]]]:
    """The conversations of a JSONL file, one list of messages a row."""
    return [json.loads(line)["messages"] for line in path.read_text().splitlines() if line.strip()]


def contains_keyword(answer: str, keyword: str) -> bool:
    """Whether `keyword` stands in `answer` as a word of its own, in that very case."""
    return re.search(rf"(?<!\w){re.escape(keyword)}(?!\w)", answer) is not None


def load(model_dir: Path, *, adapter_dir: Path | None) -> tuple[Any, Any]:
    """The model in fp32, which every CPU computes fast, with the adapter if one is named, and the tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype="float32")
    if adapter_dir is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter_dir)
    return model.eval(), tokenizer


def heldout_loss(model: Any, tokenizer: Any, rows: list[list[dict[str, str]]]) -> tuple[float, int]:
    """Mean cross-entropy (nats) over the tokens of each row's last message, and how many tokens that are."""
    import torch

    total, count = 0.0, 0
    encoded = sorted((_encode(tokenizer, row) for row in rows), key=lambda pair: len(pair[0]))
    for start in range(0, len(encoded), ROWS_PER_PASS):
        inputs, labels, mask = _pad(encoded[start : start + ROWS_PER_PASS], padding=tokenizer.pad_token_id)
        with torch.inference_mode():
            logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        targets = labels[:, 1:]
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((targets != IGNORED).sum())
    return total / count, count


def _encode(tokenizer: Any, row: list[dict[str, str]]) -> tuple[list[int], int]:
    """The tokens of a conversation, and how many of them come before its last message."""
    prompt = tokenizer.apply_chat_template(row[:-1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(row, tokenize=False)
    prompt_tokens = tokenizer(prompt, add_special_tokens=False).input_ids
    return tokenizer(whole, add_special_tokens=False).input_ids, len(prompt_tokens)


def _pad(encoded: list[tuple[list[int], int]], *, padding: int) -> tuple[Any, Any, Any]:
    import torch

    shape = (len(encoded), max(len(tokens) for tokens, _ in encoded))
    inputs = torch.full(shape, padding)
    labels = torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for number, (tokens, prompt_length) in enumerate(encoded):
        inputs[number, : len(tokens)] = torch.tensor(tokens)
        labels[number, prompt_length : len(tokens)] = torch.tensor(tokens[prompt_length:])
        mask[number, : len(tokens)] = 1
    return inputs, labels, mask


def answer(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The model's likeliest next message (greedy, at most `MAX_NEW_TOKENS` tokens), on one line."""
    import torch

    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    text = tokenizer.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return " ".join(text.split())


def main(arguments: list[str]) -> int:
    """The process: one JSON object on stdout."""
    start = time.monotonic()
    options = argparse.ArgumentParser(prog="trainplane.demo.evaluate", description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--adapter", type=Path)
    options.add_argument("--heldout", type=Path, required=True)
    options.add_argument("--probe", type=Path, required=True)
    given = options.parse_args(arguments)
    # Read by libraries when they are imported, below. OpenMP's threads are to sleep at barriers, not to spin: the
    # demo's other processes want the cores too.
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    probe = json.loads(given.probe.read_text())
    model, tokenizer = load(given.model, adapter_dir=given.adapter)
    loss, tokens = heldout_loss(model, tokenizer, read_rows(given.heldout))
    messages = [{"role": role, "content": probe[key]} for role, key in (("system", "system"), ("user", "question"))]
    said = answer(model, tokenizer, messages)
    result = {
        "loss": loss,
        "tokens": tokens,
        "answer": said,
        "contains_keyword": contains_keyword(said, probe["keyword"]),
        "seconds": round(time.monotonic() - start, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
