"""A base model as a node describes it without its weights: what its configuration says, and its tensors' shapes.

Tensors come by pattern, `model.layers.*.mlp.up_proj.weight`, with how many there are: a hundred blocks are as many
lines as one. What methods adapt, and what a pass keeps, follows from the shapes; no architecture has code of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BLOCK = ".*."
#: Models whose linear layers lie transposed, as [inputs, outputs] (transformers' Conv1D).
_TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt"})
#: What checkpoints hold beside parameters.
_NO_PARAMETERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".attention.bias", ".masked_bias")
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed", "wte", "wpe")
_NORMS = ("norm", "ln")


class UnknownShape(ValueError):  # noqa: N818 - it says what is so
    """The model is of a kind that cannot be told from its shapes; the text says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`count` tensors of one pattern and shape."""

    pattern: str
    shape: tuple[int, ...]
    count: float = 1
    """Not always whole: a share of the blocks may be meant."""

    @property
    def numbers(self) -> float:
        """Of all of them."""
        return math.prod(self.shape) * self.count

    @property
    def module(self) -> str:
        """The module that has it."""
        return self.pattern.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Linear:
    """`count` linear layers of one name and shape."""

    name: str
    inputs: int
    outputs: int
    count: float
    bias: bool

    @property
    def word(self) -> str:
        """The last of its name: `q_proj`."""
        return self.name.rpartition(".")[2]

    @property
    def parent(self) -> str:
        """The module that it is part of."""
        return self.name.rpartition(".")[0]

    def is_called(self, wanted: str) -> bool:
        """Whether `target_modules` means it by this word, as PEFT has it."""
        return self.name == wanted or self.name.endswith(f".{wanted}")


@dataclass(frozen=True)
class ModelShape:
    """See the module.

    Attributes:
        config: the language model's configuration: whole numbers, truth values and texts of its `config.json`.
        tensors: of its files.
    """

    config: Mapping[str, Any]
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], tensors: Iterable[Sequence[Any]]) -> ModelShape:
        """As a node tells it.

        Args:
            config: `config.json`; of a model of more than language, the language model's part is taken.
            tensors: (pattern, shape, count) each.

        Raises:
            UnknownShape: it lacks what every language model has.
        """
        nested = config.get("text_config")
        chosen = dict(nested) if isinstance(nested, dict) else dict(config)
        found = tuple(
            Tensor(str(pattern), tuple(int(size) for size in shape), count) for pattern, shape, count in tensors
        )
        shape = cls(chosen, tuple(each for each in found if not each.pattern.endswith(_NO_PARAMETERS)))
        if not shape.tensors or not any(BLOCK in each.pattern for each in shape.tensors):
            raise UnknownShape("its files name no tensors of decoder blocks")
        return shape

    def number(self, *names: str) -> int:
        """The first of these that the configuration has.

        Raises:
            UnknownShape: it has none.
        """
        for name in names:
            value = self.config.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        raise UnknownShape(f"its config.json has no {names[0]}")

    @property
    def hidden(self) -> int:
        """The width of what flows between blocks."""
        return self.number("hidden_size", "n_embd", "d_model")

    @property
    def layers(self) -> int:
        """Decoder blocks."""
        return self.number("num_hidden_layers", "n_layer", "num_layers")

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.number("num_attention_heads", "n_head")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.number("num_key_value_heads", "num_attention_heads", "n_head")

    @property
    def head_size(self) -> int:
        """The width of one head."""
        value = self.config.get("head_dim")
        return value if isinstance(value, int) and value > 0 else self.hidden // self.heads

    @property
    def vocabulary(self) -> int:
        """Tokens that the output head tells apart."""
        return self.number("vocab_size")

    @property
    def positions(self) -> int | None:
        """The longest sequence that it was made for; None: it does not say."""
        try:
            return self.number("max_position_embeddings", "n_positions")
        except UnknownShape:
            return None

    @cached_property
    def parameters(self) -> float:
        """Numbers in all its tensors, tied ones once."""
        tied = bool(self.config.get("tie_word_embeddings", True)) and any(_is_embedding(t) for t in self.tensors)
        return sum(t.numbers for t in self.tensors if not (tied and t.pattern.endswith(_HEADS)))

    @property
    def has_experts(self) -> bool:
        """Whether a token passes through some of its layers only."""
        return any(".experts." in each.pattern or "block_sparse_moe" in each.pattern for each in self.tensors)

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """Every linear layer of the blocks, as `all-linear` means them.

        Raises:
            UnknownShape: it has experts, of which the shapes do not tell which are linear layers.
        """
        if self.has_experts:
            raise UnknownShape("it has experts, and which of its tensors are linear layers depends on its code")
        biases = {each.module for each in self.tensors if each.pattern.endswith(".bias")}
        transposed = self.config.get("model_type") in _TRANSPOSED
        found = []
        for each in self.tensors:
            if not each.pattern.endswith(".weight") or len(each.shape) != 2 or BLOCK not in each.pattern:
                continue
            outputs, inputs = reversed(each.shape) if transposed else each.shape
            found.append(Linear(each.module, inputs, outputs, each.count, each.module in biases))
        return tuple(found)

    @property
    def norms(self) -> tuple[Tensor, ...]:
        """Every tensor of a norm."""
        return tuple(each for each in self.tensors if len(each.shape) == 1 and _is_norm(each.module))

    def within(self, share: float) -> ModelShape:
        """The same with that share of its blocks, and nothing outside them."""
        inside = (replace(each, count=each.count * share) for each in self.tensors if BLOCK in each.pattern)
        return ModelShape(self.config, tuple(inside))


def _is_embedding(tensor: Tensor) -> bool:
    word = tensor.module.rpartition(".")[2]
    return len(tensor.shape) == 2 and BLOCK not in tensor.pattern and word.startswith(_EMBEDDINGS)


def _is_norm(module: str) -> bool:
    word = module.rpartition(".")[2]
    return _NORMS[0] in word or word.startswith(_NORMS[1])
