"""A model's directory as one GGUF file, which llama.cpp and its like read: Llama's architecture, tensor by tensor.

The layout is that of llama.cpp's own converter (`convert_hf_to_gguf.py`): its names for tensors and metadata, and the
rows of q and k in the order in which it turns positions. transformers reads it back, which the tests lean on.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from gguf.quants import quant_shape_to_byte_shape, quantize
from safetensors import safe_open

from agent.trainer import gguf_tokenizer
from agent.trainer.pulse import PULSE
from trainplane.backends import gguf_support

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Kind = gguf.GGMLQuantizationType
TYPES = {
    "f32": (Kind.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the model, and what becomes of it."""

    file: Path
    name: str
    gguf_name: str
    shape: tuple[int, ...]
    kind: Any

    @property
    def nbytes(self) -> int:
        if self.kind is Kind.F32:
            return 4 * math.prod(self.shape)
        return math.prod(quant_shape_to_byte_shape(self.shape, self.kind))


def write(model: Path, target: Path, *, kind: str, name: str) -> dict[str, Any]:
    """Write the file; it is read through once more before this returns.

    Args:
        model: a model's directory, with safetensors and `tokenizer.json`; `gguf_support` finds nothing wrong with it.
        target: the file.
        kind: one of TYPES. Vectors are f32, and rows that q8_0 cannot divide into blocks f16.
        name: what the model is called.

    Returns:
        Facts for the provenance.

    Raises:
        OSError: the disk is full.
    """
    config = json.loads((model / "config.json").read_bytes())
    tensors = list(_tensors(model, config, TYPES[kind][0]))
    factors = _rope_factors(config)
    target.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(target, "llama")
    _describe(writer, config, name)
    writer.add_file_type(TYPES[kind][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    gguf_tokenizer.add(writer, model, config["vocab_size"])
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        _announce(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in tensors:
        writer.write_tensor_data(_content(tensor, config))
        PULSE.beat()
    writer.close()
    found = {tensor.name: tensor.n_bytes for tensor in gguf.GGUFReader(target).tensors}
    if any(found.get(tensor.gguf_name) != tensor.nbytes for tensor in tensors):
        raise OSError(f"{target.name} does not hold what was written to it")
    return {"type": kind, "tensors": len(found), "size_bytes": target.stat().st_size}


def _tensors(model: Path, config: Mapping[str, Any], kind: Any) -> Iterator[_Tensor]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for file in sorted(model.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - it is no dict
                shape = tuple(shard.get_slice(name).get_shape())
                found = names.get_name(name, try_suffixes=(".weight",))
                if found is None:
                    raise ValueError(f"GGUF has no name for {name}")
                stored = Kind.F32 if len(shape) == 1 else kind
                if stored is Kind.Q8_0 and shape[-1] % gguf.GGML_QUANT_SIZES[Kind.Q8_0][0]:
                    stored = Kind.F16
                yield _Tensor(file, name, found, shape, stored)


def _announce(writer: Any, tensor: _Tensor) -> None:
    plain = tensor.kind is Kind.F32
    shape = tensor.shape if plain else quant_shape_to_byte_shape(tensor.shape, tensor.kind)
    dtype = np.dtype(np.float32 if plain else np.uint8)
    writer.add_tensor_info(tensor.gguf_name, shape, dtype, tensor.nbytes, raw_dtype=tensor.kind)


def _content(tensor: _Tensor, config: Mapping[str, Any]) -> NDArray[Any]:
    with safe_open(tensor.file, framework="pt") as shard:
        values: NDArray[Any] = shard.get_tensor(tensor.name).to(torch.float32).numpy()
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config.get("num_key_value_heads") or config["num_attention_heads"],
    }.get(tensor.name.removesuffix(".weight").rpartition(".")[2])
    if heads:
        # transformers turns the halves of a head, llama.cpp neighbours.
        values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    stored: NDArray[Any] = np.ascontiguousarray(quantize(np.ascontiguousarray(values), tensor.kind))
    return stored


def _describe(writer: Any, config: Mapping[str, Any], name: str) -> None:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head = config.get("head_dim") or hidden // heads
    positions = gguf_support.rope(config)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(positions["rope_theta"])
    if positions["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(positions["factor"])


def _rope_factors(config: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """By how much each frequency of Llama 3.1's positions is slowed down; None: they are not."""
    told = gguf_support.rope(config)
    if told["rope_type"] != "llama3":
        return None
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    factor, low, high = told["factor"], told["low_freq_factor"], told["high_freq_factor"]
    length = told["original_max_position_embeddings"]
    waves = 2 * math.pi * told["rope_theta"] ** (np.arange(0, head, 2, dtype=np.float64) / head)
    smooth = np.clip((length / waves - low) / (high - low), 0, 1)
    factors: NDArray[np.float32] = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return factors
