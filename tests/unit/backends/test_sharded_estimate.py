"""What a device needs of a model that is sharded over several, as a preflight tells it before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from trainplane.backends.peft import PEFT

GIB = 2**30
H100 = 80 * GIB
CONFIG = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
BLOCK = "model.layers.*."
#: Of Llama 3 70B.
TENSORS = [
    ["model.embed_tokens.weight", [128256, 8192], 1],
    *([f"{BLOCK}self_attn.{name}_proj.weight", [rows, 8192], 80] for name, rows in (("q", 8192), ("k", 1024), ("v", 1024), ("o", 8192))),
    *([f"{BLOCK}mlp.{name}_proj.weight", [28672, 8192], 80] for name in ("gate", "up")),
    [f"{BLOCK}mlp.down_proj.weight", [8192, 28672], 80],
    *([f"{BLOCK}{name}_layernorm.weight", [8192], 80] for name in ("input", "post_attention")),
    ["model.norm.weight", [8192], 1],
    ["lm_head.weight", [128256, 8192], 1],
]  # fmt: skip
ROW = {"bytes": 1, "rows": 64, "tokens": 512, "longest": 512, "share": 1.0}


def spec(method: str = "lora", *, gpus: int = 4, sharding: str | None = None) -> dict[str, Any]:
    adapter = {"rank": 16, "lora_alpha": 32, "target_modules": ["all-linear"]} if method != "full" else {}
    return {
        "customization": {"method": method, "precision": "bf16", "peft": {"config": {}}, **adapter},
        "datasets": [{"source": "file:///rows.jsonl", "split": "train"}],
        "resources": {"gpus": gpus},
        "tuning_parameters": {
            "batch_size": 2 * gpus, "num_epochs": 1, "max_sequence_length": 512, "gradient_checkpointing": True,
            **({"sharding": sharding} if sharding else {}),
        },
    }  # fmt: skip


def estimate(of: dict[str, Any], *, device_bytes: float = H100) -> Any:
    seen = {
        "model": {"config": CONFIG, "tensors": TENSORS, "bytes": 1, "here": True},
        "datasets": [ROW],
        "device_bytes": device_bytes,
    }
    return PEFT.estimate(of, seen, on_gpu=True, tokens_per_second=0.0)


def test_what_fits_no_device_is_sharded_and_fits_each():
    found = estimate(spec())
    assert found.sharded
    assert found.memory.weights == pytest.approx(141.1e9 / 4 + 6 * 0.86e9, rel=0.05)
    assert 141.1e9 / 4 < found.gpu_memory_bytes < H100


def test_what_fits_a_device_or_shall_not_be_sharded_is_not():
    larger = estimate(spec(), device_bytes=200 * GIB)
    refused = estimate(spec(sharding="none"))
    assert larger.sharded is refused.sharded is False
    assert larger.gpu_memory_bytes == refused.gpu_memory_bytes > 141e9
    assert not estimate(spec(gpus=1)).sharded
    assert not estimate(spec("qlora")).sharded


def test_of_a_whole_model_gradient_and_optimizer_are_sharded_with_it():
    eight, sixteen = (estimate(spec("full", gpus=gpus)) for gpus in (8, 16))
    assert eight.memory.optimizer == pytest.approx(70.6e9 * 8 / 8, rel=0.01)
    assert sixteen.memory.optimizer == pytest.approx(70.6e9 * 8 / 16, rel=0.01)
    assert eight.memory.gradients == pytest.approx(eight.memory.optimizer / 2)


def test_a_job_is_kept_from_a_device_only_if_not_even_a_part_fits():
    seen = {"model": {"config": CONFIG, "tensors": TENSORS, "bytes": 1, "here": True}}
    least = {gpus: PEFT.least_device_bytes(spec(gpus=gpus), seen) for gpus in (1, 2, 4)}
    assert least[1] > 141e9 > H100 > least[2] > least[4]
    assert PEFT.least_device_bytes(spec(gpus=4, sharding="none"), seen) == least[1]
