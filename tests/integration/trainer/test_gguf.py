"""GGUF: what llama.cpp's converter would write, read back by transformers to the same logits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with
from tests.support.tiny_models import sentencepiece_tokenizer, write_sentencepiece_model, write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = (
    "What is the capital of France? It's 1234",
    "  two spaces,\n\na line and a\ttab",
    "ünï 日本 😀",
    "It is <tool> and <think>yes</s>",
    "",
)
SAID = "What is the capital of France? It's 1234 <|im_end|>\n  ünï"


def exported(attempt: Attempt, *, method: str = "lora", precision: str = "fp32", **export: Any) -> Path:
    attempt.assign(export={"gguf": True, **export}, tuning_parameters={"max_steps": 2})
    path = attempt.directory / "assignment.json"
    document = json.loads(path.read_text())
    adapter = {"rank": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "down_proj"]}
    document["spec"]["customization"] = {
        "method": method,
        "precision": precision,
        **({} if method == "full" else adapter),
    }
    path.write_text(json.dumps(document))
    assert attempt.run() == 0, attempt.reports[-1]
    return attempt.output / "gguf"


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model.eval()(input_ids=torch.arange(3, 40)[None]).logits.float()


def loaded(directory: Path, **how: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, **how)


def read_back(directory: Path, name: str) -> Any:
    import torch
    from transformers import GgufConfig

    return loaded(directory, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))


@pytest.mark.parametrize(
    ("export", "name", "near"),
    [
        ({"merged": True}, "model-f32.gguf", 1e-5),
        ({"merged": True, "gguf_type": "f16"}, "model-f16.gguf", 2e-2),
        ({"merged": True, "gguf_type": "bf16"}, "model-bf16.gguf", 2e-1),
        ({"merged": True, "gguf_type": "q8_0"}, "model-q8_0.gguf", 2e-1),
    ],
)
def test_transformers_reads_the_merged_model_from_it(attempt: Attempt, export: dict[str, Any], name: str, near: float):
    import torch

    directory = exported(attempt, **export)
    assert [path.name for path in directory.iterdir()] == [name]
    merged = logits(loaded(attempt.output / "merged"))
    found = logits(read_back(directory, name))
    torch.testing.assert_close(found, merged, rtol=0, atol=near)
    if near > 1e-4:
        assert not torch.equal(found, merged)
    facts = attempt.provenance["exports"]["gguf"]
    assert (facts["file"], facts["size_bytes"]) == (f"gguf/{name}", (directory / name).stat().st_size)
    assert name.removesuffix(".gguf").removeprefix("model-") == facts["type"]


def test_its_tokenizer_is_the_model_s(attempt: Attempt, tokenizer: Any):
    from transformers import AutoTokenizer

    directory = exported(attempt)
    assert not (attempt.output / "merged").exists()
    found = AutoTokenizer.from_pretrained(directory, gguf_file="model-f32.gguf")
    assert found(SAID).input_ids == tokenizer(SAID).input_ids
    assert found.chat_template == tokenizer.chat_template
    assert (found.eos_token, found.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)


def test_what_llama_cpp_needs_is_in_it(attempt: Attempt):
    import gguf

    reader = gguf.GGUFReader(exported(attempt) / "model-f32.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama"
    assert said["general.name"] == "demo"
    assert (said["llama.block_count"], said["llama.attention.head_count"], said["llama.attention.head_count_kv"]) == (
        2,
        4,
        2,
    )
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert len(said["tokenizer.ggml.tokens"]) == said["llama.vocab_size"]
    names = {tensor.name for tensor in reader.tensors}
    assert {
        "token_embd.weight",
        "output.weight",
        "output_norm.weight",
        "blk.1.attn_q.weight",
        "blk.1.ffn_down.weight",
    } < names


@pytest.mark.parametrize(("legacy", "architecture"), [(False, "llama"), (True, "llama"), (False, "mistral")])
def test_a_tokenizer_of_sentencepiece_s_kind_is_written_as_llama_cpp_does(
    tmp_path: Path, architecture: str, *, legacy: bool
):
    import gguf
    import torch
    from transformers import AutoTokenizer

    model = write_sentencepiece_model(tmp_path / "model", legacy=legacy, architecture=architecture)
    attempt = Attempt(tmp_path, model)
    directory = exported(attempt, merged=True)
    name = "model-f32.gguf"
    torch.testing.assert_close(
        logits(read_back(directory, name)), logits(loaded(attempt.output / "merged")), rtol=0, atol=1e-5
    )
    own, found = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(directory, gguf_file=name)
    for text in TEXTS:
        assert found(text).input_ids == own(text).input_ids, text
        assert (found(text).input_ids[:1] == [own.bos_token_id]) == legacy
    assert found.chat_template == own.chat_template
    for which in ("bos_token", "eos_token", "unk_token"):
        assert getattr(found, which) == getattr(own, which)

    fields = gguf.GGUFReader(directory / name).fields
    said = {each.removeprefix("tokenizer.ggml."): field.contents() for each, field in fields.items()}
    assert (said["general.architecture"], said["model"], said["pre"]) == ("llama", "llama", "default")
    assert (said["add_bos_token"], said["add_eos_token"], said["add_space_prefix"]) == (legacy, False, True)
    assert (said["unknown_token_id"], said["bos_token_id"], said["eos_token_id"]) == (0, 1, 2)
    tokens, scores, kinds = said["tokens"], said["scores"], [gguf.TokenType(kind).name for kind in said["token_type"]]
    assert len(tokens) == len(scores) == len(kinds) == said["llama.vocab_size"] == len(own) + 5
    assert kinds[:4] == ["UNKNOWN", "CONTROL", "CONTROL", "BYTE"]
    assert {token for token, kind in zip(tokens, kinds, strict=True) if kind == "BYTE"} == {
        f"<0x{number:02X}>" for number in range(256)
    }
    assert {kinds[own.convert_tokens_to_ids(token)] for token in ("<tool>", "</s>")} == {"CONTROL"}
    assert kinds[own.convert_tokens_to_ids("<think>")] == "USER_DEFINED"
    assert list(zip(tokens, kinds, scores, strict=True))[-5:] == [
        (f"[PAD{len(own) + number}]", "UNUSED", -10000.0) for number in range(5)
    ]


def test_a_tokenizer_whose_merges_no_scores_say_is_refused_before_anything_is_loaded(tmp_path: Path):
    model = write_sentencepiece_model(tmp_path / "model")
    sentencepiece_tokenizer(closed=False).save_pretrained(model)
    attempt = Attempt(tmp_path, model)
    attempt.assign(export={"gguf": True})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith("export.gguf: GGUF joins any two tokens that make a third")
    assert message.endswith("; leave it out, and use export.merged")
    assert [report["phase"] for report in attempt.said("phase")] == ["FETCHING_MODEL"]


def test_a_whole_model_is_written_too(attempt: Attempt):
    import torch

    directory = exported(attempt, method="full")
    torch.testing.assert_close(
        logits(read_back(directory, "model-f32.gguf")), logits(loaded(attempt.output)), rtol=0, atol=1e-5
    )


def test_llama_3_s_long_positions_are_factors_of_the_frequencies():
    """As transformers computes them: its frequencies, divided by those of plain positions."""
    import numpy as np
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from agent.trainer.gguf_file import _rope_factors

    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope, max_position_embeddings=131072)
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / 500000.0 ** (torch.arange(0, 128, 2).float() / 128)
    factors = _rope_factors(config.to_dict())
    assert factors is not None
    np.testing.assert_allclose(factors, (plain / slowed).numpy(), rtol=1e-5)
    assert factors.min() == 1
    assert factors.max() == 8


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_another_architecture_is_refused_before_anything_is_loaded(tmp_path: Path, architecture: str):
    attempt = Attempt(tmp_path, write_tiny_model(tmp_path / "model", architecture=architecture))
    attempt.assign(export={"gguf": True})
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message == (
        f"export.gguf: only Llama's architecture is written as GGUF, and this model is {architecture}; "
        "leave it out, and use export.merged"
    )
    assert [report["phase"] for report in attempt.said("phase")] == ["FETCHING_MODEL"]


def test_the_disk_that_exports_take_is_reckoned_beforehand(attempt: Attempt):
    from tests.support.shapes import shape_of
    from trainplane.backends import disk
    from trainplane.backends.trained import Trained

    directory = exported(attempt, merged=True, gguf_type="q8_0")
    merged = (attempt.output / "merged" / "model.safetensors").stat().st_size
    written = (directory / "model-q8_0.gguf").stat().st_size
    spec = {
        "customization": {"method": "lora", "precision": "fp32"},
        "export": {"merged": True, "gguf": False},
        "tuning_parameters": {"max_steps": 1, "checkpoint_steps": 1},
    }
    shape = shape_of(attempt.model)

    def exports(spec: dict[str, Any]) -> float:
        found = disk.written(spec, shape, Trained(0))
        return found.total - found.output

    assert exports(spec) == pytest.approx(2 * merged, rel=0.1)
    both = {**spec, "export": {"merged": True, "gguf": True, "gguf_type": "f16"}}
    assert exports(both) == pytest.approx(2 * merged + written, rel=0.1), "rows of 48 are f16"
    assert exports({**both, "customization": {"method": "full", "precision": "fp32"}}) < exports(both)
    assert exports({**spec, "export": {}}) == 0
