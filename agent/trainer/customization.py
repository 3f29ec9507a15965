"""`customization` of the spec: what is put into the base model, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import ConfigInvalid, NotYetSupported, PrecisionUnsupported
from trainplane.backends import peft_config
from trainplane.backends.peft_methods import METHODS, VIRTUAL_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.trainer.fields import Fields
    from trainplane.backends.peft_methods import Method

ALL_LINEAR = "all-linear"
PRECISIONS = ("bf16", "fp16", "fp32")
FOUR_BIT_TYPES = ("nf4", "fp4")
COMPUTE_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class Quantization:
    """`customization.qlora`: how the base model is quantized to four bits (Dettmers et al., arXiv 2305.14314)."""

    kind: str = "nf4"
    double: bool = True
    """Whether the blocks' scales are quantized too."""
    compute_dtype: str = "bfloat16"
    """torch's name of the type that a weight is expanded to for a product."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """PEFT's configuration in the spec's words. What the method does not have is at its default, and means nothing."""

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    """Module names, or `("all-linear",)`: every linear layer but the output head. Empty: all that the method trains."""
    trainable_layers: tuple[str, ...] = ()
    """Where they may lie; empty: anywhere."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the method's configuration class, checked by name and type."""

    @property
    def initialisation(self) -> str | bool:
        """`init_lora_weights`: PEFT's word for how the adapter begins."""
        value: str | bool = self.config.get("init_lora_weights", True)
        return value

    @property
    def moves_base(self) -> bool:
        """Whether the initialisation takes its part out of the base weights, so that the adapter alone is no result."""
        return self.initialisation in peft_config.MOVES_BASE


@dataclass(frozen=True, slots=True)
class Customization:
    """The whole block."""

    method: str = "lora"
    precision: str = "bf16"
    adapter: Adapter = field(default_factory=Adapter)
    quantization: Quantization | None = None
    """None: the base model is in `precision`."""

    @property
    def kind(self) -> Method:
        """The method's row."""
        return METHODS[self.method]

    @property
    def compute_type(self) -> str:
        """What quantized weights are computed in, by torch's name; empty: none are quantized."""
        return self.quantization.compute_dtype if self.quantization else ""

    @property
    def virtual_tokens(self) -> int:
        """Positions that a prompt takes before every text."""
        return int(self.adapter.config.get("num_virtual_tokens", VIRTUAL_TOKENS)) if self.kind.prompt else 0


def read(block: Fields, *, on_gpu: bool) -> Customization:
    """The block, checked.

    Raises:
        ConfigInvalid, NotYetSupported, PrecisionUnsupported: each names the field.
    """
    method = block.choice("method", "lora", allowed=tuple(METHODS), known=())
    if block.text("precision", "bf16") == "fp16" and not on_gpu:
        raise PrecisionUnsupported(
            "customization.precision: a CPU does not train in fp16, whose range needs a GPU's loss scaling; ask for "
            "bf16 or fp32"
        )
    return Customization(
        method=method,
        precision=block.choice("precision", "bf16", allowed=PRECISIONS, known=()),
        adapter=_adapter(block, method),
        quantization=_quantization(block.block("qlora")) if method == "qlora" else None,
    )


def _quantization(block: Fields) -> Quantization:
    return Quantization(
        kind=block.choice("bnb_4bit_quant_type", "nf4", allowed=FOUR_BIT_TYPES, known=()),
        double=block.boolean("use_double_quant", default=True),
        compute_dtype=block.choice("bnb_4bit_compute_dtype", "bfloat16", allowed=COMPUTE_DTYPES, known=()),
    )


def _adapter(block: Fields, method: str) -> Adapter:
    peft = block.block("peft")
    if method != "full":
        if not peft.boolean("use", default=True):
            raise ConfigInvalid(f"customization.peft.use: false contradicts the method {method}")
        peft.block("config").choice("task_type", "CAUSAL_LM", allowed=("CAUSAL_LM",), known=None)
    for path, reason, description in peft_config.problems(block.values):
        failure = NotYetSupported if reason == "NOT_YET_SUPPORTED" else ConfigInvalid
        raise failure(f"{path}: {description}")
    config = peft_config.further(block.values)
    rank = block.integer("rank", 16, minimum=1)
    trains_base = METHODS[method].trains_base
    return Adapter(
        rank=rank,
        alpha=block.number("lora_alpha", 2 * rank, above=0.0),
        dropout=block.number("lora_dropout", 0.0, minimum=0.0, below=1.0),
        target_modules=tuple(block.texts("target_modules")) or (() if trains_base else (ALL_LINEAR,)),
        trainable_layers=(*block.texts("trainable_layers"), *_blocks(config.pop("layers_to_transform", []))),
        config=config,
    )


def _blocks(numbers: int | list[int]) -> list[str]:
    """PEFT's numbers of blocks in the words of `trainable_layers`."""
    return [f"layers.{number}" for number in ([numbers] if isinstance(numbers, int) else numbers)]
