"""The result's model card: `README.md` with the metadata that model hubs read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trainplane.backends.peft_methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHOWN_MODULES = 16
TITLES = {
    "lora": "LoRA",
    "qlora": "QLoRA",
    "dora": "DoRA",
    "adalora": "AdaLoRA",
    "ia3": "(IA)³",
    "vera": "VeRA",
    "oft": "OFT",
    "boft": "BOFT",
    "prompt_tuning": "prompt tuning",
    "prefix_tuning": "prefix tuning",
    "p_tuning": "P-tuning",
    "layernorm": "LayerNorm tuning",
    "full": "full fine-tuning",
}
USE_OF_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained({base})"""
USE_OF_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")"""
CARD = """---
{base_model_yaml}library_name: {library}
pipeline_tag: text-generation
tags:
- {method}
- trainplane
---

# {title}

{kind} of `{base_model}`, trained by trainplane ({train_rows} rows, {steps} steps).

## Use

```python
{use}
```

{exports}## Training

| | |
|---|---|
{facts}

## Loss

| | |
|---|---|
{losses}

Where everything came from, with digests and versions: `provenance.json`.
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """The card of what was trained, from its provenance."""
    training, adapter, losses = facts["training"], facts["adapter"], facts["losses"]
    quantized = facts["base_model"]["quantization"]
    whole = adapter["method"] == "full"
    customization = facts["spec"].get("customization", {})
    tuning = facts["spec"].get("tuning_parameters", {})
    base_model = facts["base_model"]["model_name"]
    rows = {
        "method": adapter["method"],
        **{
            words: customization.get(name, "default")
            for name, words in (("rank", "rank"), ("lora_alpha", "alpha"), ("lora_dropout", "dropout"))
            if name in METHODS[adapter["method"]].places
        },
        **({"trained modules": _listed(adapter["target_modules"])} if adapter["target_modules"] else {}),
        "trainable parameters": f"{adapter['trainable_parameters']:,} of {facts['base_model']['parameters']:,}",
        "precision": training["precision"],
        **({} if quantized is None else {"base model": f"{quantized['bits']} bits, {quantized['type']}"}),
        "devices": training["world_size"],
        "learning rate": f"{training['peak_learning_rate']:g}, {training['lr_scheduler']}",
        "warm-up steps": training["warmup_steps"],
        "effective batch": training["effective_batch_size"],
        "epochs": training["epochs"],
        "max sequence length": tuning.get("max_sequence_length", "default"),
        "tokens seen": f"{training['tokens']:,}, trained on {training['trained_tokens']:,}",
        "seed": training["seed"],
    }
    shown_losses = {
        "training, first step": losses["first"],
        "training, last step": losses["last"],
        "evaluation, before": losses["eval_before"],
        "evaluation, after": losses["eval_after"],
    }
    return CARD.format(
        method=adapter["method"],
        library="transformers" if whole else "peft",
        kind=f"A {TITLES[adapter['method']]}" if whole else f"A {TITLES[adapter['method']]} adapter",
        use=USE_OF_MODEL if whole else USE_OF_ADAPTER.format(base=json.dumps(base_model)),
        base_model=_inline(base_model),
        # The hub refuses a card whose base model is no repository of its own.
        base_model_yaml=""
        if "://" in base_model or base_model.startswith("/")
        else f"base_model: {json.dumps(base_model)}\n",
        title=_inline(facts["job_id"] or ("model" if whole else "adapter")),
        train_rows=sum(
            source["rows"] - source["held_out_rows"]
            for source in facts["datasets"]["sources"]
            if source["split"] == "train"
        ),
        steps=training["steps"],
        exports=_exports(facts["exports"]),
        facts=_table(rows),
        losses=_table({name: loss for name, loss in shown_losses.items() if loss is not None}),
    )


def _exports(exports: Mapping[str, Any]) -> str:
    """What else is in the directory."""
    lines = []
    if "merged" in exports:
        off = exports["merged"]["logit_difference"]
        lines.append(f"- `merged/`: the whole model, ready to load. Its logits are off by {off:.1g} of their spread.")
    if "gguf" in exports:
        lines.append(f"- `{exports['gguf']['file']}`: the same for llama.cpp.")
    return "## Also here\n\n" + "\n".join(lines) + "\n\n" if lines else ""


def _listed(names: Sequence[str]) -> str:
    """The first few; a large model has hundreds of layers."""
    return ", ".join(names[:SHOWN_MODULES]) + (
        f" and {len(names) - SHOWN_MODULES} more" if len(names) > SHOWN_MODULES else ""
    )


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {_inline(str(value)).replace('|', chr(92) + '|')} |" for name, value in rows.items())


def _inline(text: str) -> str:
    """Text that cannot break out of a line or of a code span."""
    return " ".join(text.split()).replace("`", "'")
