"""Which models can be GGUF, and by which name llama.cpp knows how their tokenizers cut text."""

from __future__ import annotations

from typing import Any

import pytest

from trainplane.backends.gguf_support import model_problem, rope, splitting, tokenizer_problem

LLAMA = {"model_type": "llama", "hidden_act": "silu"}
LLAMA3 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LLAMA, ""),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ""),
        ({**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, ""),
        ({"model_type": "gpt2"}, "is gpt2"),
        ({}, "is unknown"),
        ({**LLAMA, "attention_bias": True}, "biases"),
        ({**LLAMA, "mlp_bias": True}, "biases"),
        ({**LLAMA, "hidden_act": "gelu"}, "gelu"),
        ({**LLAMA, "rope_scaling": {"type": "yarn"}}, "yarn"),
        ({**LLAMA, "model_type": "mistral", "sliding_window": None}, ""),
        ({**LLAMA, "model_type": "mistral", "sliding_window": 64, "max_position_embeddings": 64}, ""),
        ({**LLAMA, "model_type": "mistral", "sliding_window": 64, "max_position_embeddings": 128}, "last 64 alone"),
    ],
)
def test_a_model_is_judged_by_its_configuration(config: dict[str, Any], said: str):
    assert bool(model_problem(config)) == bool(said)
    assert said in model_problem(config)


def test_positions_are_read_wherever_a_version_of_transformers_wrote_them():
    assert rope({"rope_theta": 5e5}) == {"rope_type": "default", "rope_theta": 5e5}
    assert rope({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}})["rope_theta"] == 1e5


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"pre_tokenizer": GPT2}, "gpt-2"),
        ({"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, GPT2)}, "smollm"),
        ({"pre_tokenizer": sequence(split(LLAMA3), {**GPT2, "use_regex": False})}, ""),
        (
            {
                "pre_tokenizer": sequence(split(LLAMA3), {**GPT2, "use_regex": False}),
                "model": {"type": "BPE", "byte_fallback": False, "ignore_merges": True},
            },
            "llama-bpe",
        ),
        (
            {
                "pre_tokenizer": sequence(split(LLAMA3.replace("{1,3}", "")), {**GPT2, "use_regex": False}),
                "normalizer": {"type": "NFC"},
            },
            "qwen2",
        ),
        ({"pre_tokenizer": GPT2, "normalizer": {"type": "Lowercase"}}, ""),
        ({"pre_tokenizer": {**GPT2, "add_prefix_space": True}}, ""),
        ({"pre_tokenizer": sequence(split("a|b"), {**GPT2, "use_regex": False})}, ""),
        ({"pre_tokenizer": GPT2, "model": {"type": "Unigram"}}, ""),
        ({"model": {"type": "BPE", "byte_fallback": True}}, ""),
    ],
)
def test_a_tokenizer_s_way_to_cut_text_has_llama_cpp_s_name_or_is_refused(changed: dict[str, Any], name: str):
    tokenizer = {
        "model": {"type": "BPE", "byte_fallback": False, "ignore_merges": False},
        "normalizer": None,
        **changed,
    }
    assert splitting(tokenizer) == name
    assert bool(tokenizer_problem(tokenizer)) == (not name)
