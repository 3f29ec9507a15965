"""Llama, and Qwen2 which differs by its biases: a decoder in plain PyTorch, with transformers' names for its weights.

Only causal attention over rows that begin at position 0 and are padded on the right: then a token sees no padding, and
no mask is needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainplane_bare.failure import Failure
from trainplane_bare.model_files import FIELD

if TYPE_CHECKING:
    from trainplane_bare.model_files import ModelFiles


class Norm(nn.Module):
    """Root mean square norm, computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the last dimension."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        self.groups = config.get("num_key_value_heads") or heads
        self.size = config.get("head_dim") or hidden // heads
        qkv_bias = config["model_type"] == "qwen2" or config.get("attention_bias", False)
        out_bias = config["model_type"] == "llama" and config.get("attention_bias", False)
        self.q_proj = nn.Linear(hidden, heads * self.size, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden, self.groups * self.size, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden, self.groups * self.size, bias=qkv_bias)
        self.o_proj = nn.Linear(heads * self.size, hidden, bias=out_bias)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x: (rows, tokens, hidden)."""
        rows, tokens, _ = x.shape
        q, k, v = (
            project(x).view(rows, tokens, -1, self.size).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(
            _turned(q, turn), _turned(k, turn), v, is_causal=True, enable_gqa=self.groups != q.shape[1]
        )
        out: torch.Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, tokens, -1))
        return out


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        bias = config["model_type"] == "llama" and config.get("mlp_bias", False)
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Token by token."""
        out: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One block."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = Norm(config["hidden_size"], config.get("rms_norm_eps", 1e-6))
        self.post_attention_layernorm = Norm(config["hidden_size"], config.get("rms_norm_eps", 1e-6))

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The stream after this block."""
        x = x + self.self_attn(self.input_layernorm(x), turn)
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Embeddings, blocks, norm."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = Norm(config["hidden_size"], config.get("rms_norm_eps", 1e-6))


class Llama(nn.Module):
    """A causal language model.

    Args:
        config: its `config.json`.
        recompute: trade computation for memory: keep only the blocks' inputs for the backward pass.
    """

    def __init__(self, config: dict[str, Any], *, recompute: bool = False) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        self.tied = bool(config.get("tie_word_embeddings", False))
        self.recompute = recompute
        self.frequencies = _frequencies(config)

    def forward(self, ids: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """The logits that follow the tokens.

        Args:
            ids: (rows, tokens), padded on the right.
            wanted: (rows, tokens) of bool: where logits are needed; None: everywhere.

        Returns:
            (wanted tokens, vocabulary), or (rows, tokens, vocabulary).
        """
        angles = torch.outer(torch.arange(ids.shape[1], dtype=torch.float32), self.frequencies).to(ids.device)
        x = self.model.embed_tokens(ids)
        turn = (torch.cat((angles, angles), -1).cos().to(x.dtype), torch.cat((angles, angles), -1).sin().to(x.dtype))
        for layer in self.model.layers:
            x = checkpoint(layer, x, turn, use_reentrant=False) if self.recompute and self.training else layer(x, turn)
        x = self.model.norm(x if wanted is None else x[wanted])
        return functional.linear(x, self.model.embed_tokens.weight if self.tied else self.lm_head.weight)


def load(files: ModelFiles, *, dtype: torch.dtype, device: torch.device, recompute: bool) -> Llama:
    """The model with its weights, none of which is trained.

    Raises:
        Failure: MODEL_FORMAT_UNSUPPORTED: weights are missing, or not of the shapes that the config says.
    """
    with torch.device("meta"):
        model = Llama(files.config, recompute=recompute)
    state = {name: tensor.to(dtype) for path in files.weights for name, tensor in load_file(path).items()}
    if model.tied:
        state["lm_head.weight"] = state.get("model.embed_tokens.weight", torch.empty(0))
    try:
        missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    except RuntimeError as error:
        raise Failure("MODEL_FORMAT_UNSUPPORTED", f"{FIELD}: config.json and weights disagree: {error}") from error
    if missing:
        raise Failure("MODEL_FORMAT_UNSUPPORTED", f"{FIELD}: the weights have no {missing[0]}")
    return model.requires_grad_(requires_grad=False).to(device)


def _turned(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cos, sin = turn
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _frequencies(config: dict[str, Any]) -> torch.Tensor:
    """Of the rotary positions, also as Llama 3 stretches them; on the CPU even where the model is on none yet."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta", 10000.0))
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies: torch.Tensor = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size)
    if rope.get("rope_type", rope.get("type", "default")) != "llama3":
        return frequencies
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    stretched: torch.Tensor = frequencies / rope["factor"] * (1 - smooth) + frequencies * smooth
    return stretched
