"""Which models can be written as GGUF: judged from their configuration and tokenizer alone, without torch.

The probe on a node asks before a device is charged, and the trainer before it loads anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainplane.backends import gguf_sentencepiece

if TYPE_CHECKING:
    from collections.abc import Mapping

#: `export.gguf_type`.
TYPES = ("f32", "f16", "bf16", "q8_0")
#: `model_type` of what is computed as Llama is.
FAMILY = ("llama", "mistral")
#: What `rope_type` may be; llama.cpp has others, that we cannot compare with transformers.
ROPES = ("default", "linear", "llama3")

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """How positions are turned: `rope_type`, `rope_theta` and what that type needs, wherever they stand."""
    told = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    told.setdefault("rope_type", told.get("type", "default"))
    told.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return told


def model_problem(config: Mapping[str, Any]) -> str:
    """Why a model of this `config.json` cannot be written; empty: it can."""
    if config.get("model_type") not in FAMILY:
        return (
            f"only Llama's architecture is written as GGUF, and this model is {config.get('model_type') or 'unknown'}"
        )
    window, length = config.get("sliding_window"), config.get("max_position_embeddings")
    if window and not (length and window >= length):
        return f"Llama's architecture in GGUF attends to all positions, and this model to the last {window} alone"
    if config.get("attention_bias") or config.get("mlp_bias"):
        return "Llama's architecture in GGUF has no biases, and this model has some"
    if config.get("hidden_act", "silu") != "silu":
        return f"Llama's architecture in GGUF computes silu, and this model {config['hidden_act']}"
    kind = rope(config)["rope_type"]
    if kind not in ROPES:
        return f"GGUF is written for positions of type {', '.join(ROPES)}, and this model's are {kind}"
    return ""


def tokenizer_problem(tokenizer: Mapping[str, Any]) -> str:
    """Why a tokenizer with this `tokenizer.json` cannot be written; empty: it can."""
    if gguf_sentencepiece.is_one(tokenizer):
        return gguf_sentencepiece.problem(tokenizer)
    if splitting(tokenizer):
        return ""
    return (
        "GGUF names the way a tokenizer cuts text before its merges, and this tokenizer's is none of GPT-2's, "
        "Llama 3's, Qwen 2's and SmolLM's (byte-level BPE), nor is it of SentencePiece's kind"
    )


def splitting(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name (`tokenizer.ggml.pre`) of how text is cut before the merges; empty: it has none that we know."""
    model, steps = tokenizer.get("model") or {}, tokenizer.get("pre_tokenizer") or {}
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        return ""
    match [_step(step) for step in steps.get("pretokenizers", [steps])]:
        case ["gpt2"] if normalizer is None:
            return "gpt-2"
        case ["digits", "gpt2"] if normalizer is None:
            return "smollm"
        case [regex, "bytes"] if regex == _LLAMA3 and normalizer is None and model.get("ignore_merges"):
            return "llama-bpe"
        case [regex, "bytes"] if regex == _QWEN2 and normalizer in {None, "NFC"}:
            return "qwen2"
    return ""


def _step(step: Mapping[str, Any]) -> str:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": regex}:
            return "gpt2" if regex else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False}:
            return regex
    return ""
