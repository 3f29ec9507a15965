"""What a training holds in a device's memory at its fullest.

Counted from shapes as PyTorch's autograd keeps them: a frozen linear layer keeps nothing of what flows through it, an
adapted one its input; a norm keeps its input in fp32; attention its queries, keys, values and result; a gated
feed-forward three of its inner width. `bench/estimates.py` holds the sums to what the trainer's tensors come to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainplane.backends.estimate import Memory
from trainplane.backends.model_shape import BLOCK
from trainplane.backends.trained import FEEDFORWARD, LORA_LIKE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trainplane.backends.model_shape import Linear, ModelShape
    from trainplane.backends.trained import Trained

#: Tokens, padding included, that the trainer computes in one pass at most, unless one example alone is longer.
CPU_PASS_TOKENS = 512
GPU_PASS_TOKENS = 16384
#: As many times more on a CPU where examples stand side by side (docs/adr/0037).
SIDE_BY_SIDE = 1.5
#: Numbers of logits that the loss takes at a time, in fp32.
CPU_LOSS_NUMBERS = 1 << 20
GPU_LOSS_NUMBERS = 1 << 25

_FP32 = 4
WIDTHS = {"bf16": 2, "fp16": 2, "fp32": _FP32}
_QUANTIZED = 0.5
_SCALES = {True: 1 / 64 + _FP32 / (64 * 256), False: _FP32 / 64}
"""Bytes of quantization's scales for each number: of a block of 64, themselves quantized in blocks of 256 or not."""
_ADAM = 8
#: AdaLoRA's three averages of every trained number's importance.
_ALLOCATION = 12
#: Inner widths that an activation which is no gate keeps; each is written out of several operations, or one.
_UNGATED = {"gelu_new": 4, "gelu_fast": 5, "relu": 1, "gelu": 1, "gelu_pytorch_tanh": 1}
_NEUMANN_TERMS = 4
"""OFT's powers of a rotation that are kept, of the five it adds up."""
_ATTENTION = ("attn", "attention")


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward and backward pass of the largest micro-batch."""

    rows: float
    """Where several examples are packed: as many of the longest as come to all that it computes."""
    row_tokens: int
    """Of the longest example, virtual tokens included."""
    more: bool
    """Whether a step has several passes: gradients then lie beside a pass' activations."""
    logits: float
    """Positions of a row for which logits are computed."""
    on_gpu: bool

    @property
    def tokens(self) -> float:
        """All that it computes, padding included."""
        return self.rows * self.row_tokens


def one_pass(
    *, batch: int, longest: int, virtual: int, trained_share: float, on_gpu: bool, packed: bool = False
) -> Pass:
    """The largest micro-batch that the trainer makes.

    Args:
        batch: examples of one device in a step.
        longest: tokens of the longest example.
        virtual: tokens that the method puts before each.
        trained_share: of an example's tokens, the trained ones.
        on_gpu: where it is computed.
        packed: whether examples stand in rows together, which may leave no room of the limit.
    """
    limit = GPU_PASS_TOKENS if on_gpu else CPU_PASS_TOKENS
    rows: float = max(1, min(batch, limit // max(1, longest)))
    if packed:
        rows = max(1.0, min(batch, limit * (1 if on_gpu else SIDE_BY_SIDE) / max(1, longest)))
    share = min(1.0, max(trained_share, 1 / max(1, longest)))
    return Pass(rows, longest + virtual, more=rows < batch, logits=longest * share, on_gpu=on_gpu)


def memory_needed(
    customization: Mapping[str, Any],
    tuning: Mapping[str, Any],
    shape: ModelShape,
    moved: Trained,
    made: Pass,
    *,
    parts: int = 1,
) -> tuple[Memory, float]:
    """What lies in a device's memory, by what it is for, and how much it is at the fullest moment, in bytes.

    Args:
        customization: the effective block, as the next one.
        tuning: `tuning_parameters`.
        shape: the base model's.
        moved: what is trained of it.
        made: the largest pass.
        parts: devices over which the model is sharded; 1: each has all of it.

    Raises:
        UnknownShape: the shapes do not tell.
    """
    width = WIDTHS[customization["precision"]]
    kept = _Kept(customization, shape, moved, made, width)
    spread = Spread(shape, parts, customization["method"] == "full", width)
    weights = _weights(customization, shape, width) * spread.held + spread.gathered
    state = (_ADAM + (_ALLOCATION if customization["method"] == "adalora" else 0)) * moved.count * spread.moved
    block = kept.block_bytes() * made.tokens + kept.matrices()
    outside = kept.outside_bytes() * made.tokens
    if tuning.get("gradient_checkpointing"):
        activations = shape.hidden * width * made.tokens * shape.layers + outside
        # While logits lie there no block is computed anew, and the other way round.
        recomputed = block + kept.flowing() * made.tokens
    else:
        activations = block * shape.layers + outside
        recomputed = kept.flowing() * made.tokens
    numbers = made.rows * made.logits * shape.vocabulary
    piece = min(numbers, GPU_LOSS_NUMBERS if made.on_gpu else CPU_LOSS_NUMBERS)
    # The last piece's logarithms while the next one's are made, and what is not fp32 already is made so.
    logits = numbers * 2 * width + piece * (2 if width == _FP32 else 3) * _FP32
    gradients = moved.count * _FP32 * spread.moved
    found = Memory(
        weights=weights + (kept.casts() if parts == 1 else 0.0),
        adapter=(0.0 if moved.own else moved.count * _FP32) + moved.kept * _FP32,
        gradients=gradients,
        optimizer=state,
        activations=activations,
        logits=logits,
    )
    passing = activations + max(logits, recomputed)
    fullest = passing + gradients if made.more else max(passing, gradients + kept.flowing() * made.tokens)
    return found, found.weights + found.adapter + state + fullest


@dataclass(frozen=True, slots=True)
class Spread:
    """How a model is sharded (docs/adr/0031): its matrices in equal parts, all else whole on every device."""

    shape: ModelShape
    parts: int
    whole: bool
    """Whether it is itself what is trained, and its gradient and optimizer are sharded with it."""
    width: int
    """Bytes of a number that is computed with."""

    @property
    def held(self) -> float:
        """The share of the weights that a device holds."""
        matrices = sum(each.numbers for each in self.shape.tensors if len(each.shape) > 1)
        all_of_it = sum(each.numbers for each in self.shape.tensors)
        return 1 - matrices / all_of_it * (1 - 1 / self.parts)

    @property
    def moved(self) -> float:
        """The share of what is trained that a device holds the gradient and the averages of."""
        return self.held if self.whole else 1.0

    @property
    def gathered(self) -> float:
        """Bytes of what is whole for a moment.

        A block that is computed and the next one, twice: as it is sent, and laid out. Of a trained one its gradient,
        also twice. Or, beside a block, as much of the embeddings or of the head.
        """
        if self.parts == 1:
            return 0.0
        block = sum(each.numbers for each in self.shape.tensors if BLOCK in each.pattern) / self.shape.layers
        outside = max((each.numbers for each in self.shape.tensors if BLOCK not in each.pattern), default=0.0)
        gradient = 2 * _FP32 if self.whole else 0
        return max(block * (3 * self.width + gradient), block * self.width + outside * (2 * self.width + gradient))


def kept_bytes(customization: Mapping[str, Any], shape: ModelShape, moved: Trained) -> float:
    """What lies in a device's memory from step to step, where the whole model does."""
    adapter = (0.0 if moved.own else moved.count) + moved.kept
    weights = _weights(customization, shape, WIDTHS[customization["precision"]])
    return weights + adapter * _FP32 + moved.count * (_FP32 + _ADAM)


def _weights(customization: Mapping[str, Any], shape: ModelShape, width: int) -> float:
    method = customization["method"]
    if method == "full":
        return shape.parameters * _FP32
    if method == "qlora":
        inside = sum(each.inputs * each.outputs * each.count for each in shape.linears)
        double = customization.get("qlora", {}).get("use_double_quant", True)
        return inside * (_QUANTIZED + _SCALES[bool(double)]) + (shape.parameters - inside) * width
    return shape.parameters * width


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a pass keeps, in bytes for each token of one block."""

    customization: Mapping[str, Any]
    shape: ModelShape
    moved: Trained
    made: Pass
    width: int

    @property
    def method(self) -> str:
        return str(self.customization["method"])

    def block_bytes(self) -> float:
        """All of it."""
        return self._norms() + self._attention() + self._feed_forward() + self._adapted()

    def outside_bytes(self) -> float:
        """Beside the blocks: the last norm."""
        return self.shape.hidden * (_FP32 + (self.width if self.moved.own else 0))

    def flowing(self) -> float:
        """Gradients on their way back through a feed-forward, while the rest lies there."""
        return 3 * max((each.outputs for each in self.shape.linears), default=0) * self.width

    def casts(self) -> float:
        """Copies of fp32 weights in what is computed in, which autocast keeps for a pass."""
        return self.shape.parameters * self.width if self.method == "full" and self.width < _FP32 else 0.0

    def matrices(self) -> float:
        """What methods that rotate weights make of each layer's, whatever flows through it."""
        if self.method == "oft":
            block = int(self._config("oft_block_size", 32))
            return sum(each.inputs * block for each in self._own) * _NEUMANN_TERMS * _FP32
        if self.method == "boft":
            # A unit matrix and the rotation, and where it is not fp32 a copy of the permutation.
            return sum(each.inputs**2 for each in self._own) * (2 * _FP32 if self.width == _FP32 else 3 * self.width)
        return 0.0

    @property
    def _own(self) -> Iterable[Linear]:
        """Each adapted layer of a block, once for every one there is in it (a share of blocks: of an average block)."""
        return self.moved.linears

    def _per_block(self, each: Linear) -> float:
        return each.count / self.shape.layers

    def _config(self, name: str, default: Any) -> Any:
        return self.customization.get("peft", {}).get("config", {}).get(name) or default

    def _norms(self) -> float:
        """Their inputs in fp32, and where they are trained what they have made of them."""
        inside = [each for each in self.shape.norms if BLOCK in each.pattern and each.pattern.endswith(".weight")]
        widths = sum(each.shape[0] * each.count / self.shape.layers for each in inside)
        return widths * (_FP32 + (self.width if self.moved.own else 0))

    def _attention(self) -> float:
        shape = self.shape
        queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        found = (2 * queries + (4 if self.method == "prefix_tuning" else 2) * keys) * self.width
        dropped = shape.config.get("attn_pdrop") or shape.config.get("attention_dropout")
        if dropped and not self.made.on_gpu:
            # Without a fused kernel, and in fp32: every pair's weight, before and after, and what was dropped.
            found += 3 * shape.heads * self.made.row_tokens * _FP32
        return found + (2 * shape.hidden * self._mask_bytes() if shape.config.get("resid_pdrop") else 0.0)

    def _mask_bytes(self) -> int:
        """Of what a dropout left out: a truth value on a GPU, a number like those that it is of on a CPU."""
        return 1 if self.made.on_gpu else self.width

    def _feed_forward(self) -> float:
        inner = [each for each in self.shape.linears if not _is_attention(each)]
        widest = max((each.outputs for each in inner), default=0)
        into = [each for each in inner if each.outputs == widest]
        if len(into) > 1:
            return 3 * widest * self.width
        name = str(self.shape.config.get("hidden_act", self.shape.config.get("activation_function", "gelu")))
        return _UNGATED.get(name, 1) * widest * self.width

    def _adapted(self) -> float:
        """What is kept of the layers' inputs and results for the method's sake."""
        if self.method == "full":
            return self._shared_inputs(self.shape.linears, self.width)
        outputs = sum(each.outputs * self._per_block(each) for each in self.moved.linears) * _FP32
        if self.method == "ia3":
            return self._scaled() * self.width
        rank = int(self.customization.get("rank", 0))
        narrow = rank * sum(self._per_block(each) for each in self.moved.linears) * self._inner
        if self.method == "vera":
            return outputs + narrow
        if self.method in {"oft", "boft"}:
            return self._rotated()
        if self.method not in LORA_LIKE:
            return 0.0
        dora = self.method == "dora" or self._config("use_dora", default=False)
        return self._inputs() + narrow + (2 * outputs if dora else 0.0)

    def _rotated(self) -> float:
        """The inputs of layers that are rotated: OFT makes each its own copy in fp32, unless all is."""
        if self.method == "oft" and self.width < _FP32:
            return sum(each.inputs * self._per_block(each) for each in self.moved.linears) * _FP32
        return self._shared_inputs(self.moved.linears, self.width)

    def _scaled(self) -> float:
        """(IA)3 keeps what it scales: results, and of feed-forward outputs what flows in."""
        known = FEEDFORWARD.get(str(self.shape.config.get("model_type")), "")
        return sum(
            (each.inputs if known and f".{each.name}".endswith(f".{known}") else each.outputs) * self._per_block(each)
            for each in self.moved.linears
        )

    @property
    def _inner(self) -> int:
        """Bytes of a number inside an adapter: plain LoRA computes in what flows by, all others in fp32."""
        plain = self.method == "lora" and not self._config("use_dora", default=False)
        fused = plain and self.customization["precision"] != "fp16" and self.shape.config.get("model_type") != "gpt2"
        return self.width if fused else _FP32

    def _inputs(self) -> float:
        """Inputs of adapters: one for all that share it, or a copy of another type or a dropped one for each."""
        drops = bool(self.customization.get("lora_dropout"))
        if not drops and self.width == self._inner:
            return self._shared_inputs(self.moved.linears, self._inner)
        mask = 1 if self.made.on_gpu else self._inner
        each_one = self._inner + (mask if drops else 0)
        return sum(each.inputs * self._per_block(each) for each in self.moved.linears) * each_one

    def _shared_inputs(self, linears: Iterable[Linear], width: int) -> float:
        """Each input once: layers side by side take the same, and what comes out of attention is kept there already."""
        seen: dict[tuple[str, int], float] = {}
        for each in linears:
            if _is_attention(each) and each.outputs == self.shape.hidden and not _takes_hidden(each, linears):
                continue
            key = each.parent, each.inputs
            seen[key] = max(seen.get(key, 0.0), each.inputs * self._per_block(each))
        return sum(seen.values()) * width


def _is_attention(linear: Linear) -> bool:
    word = linear.parent.rpartition(".")[2]
    return any(part in word for part in _ATTENTION)


def _takes_hidden(linear: Linear, _linears: Iterable[Linear]) -> bool:
    """Whether an attention's layer stands before it, by its name: the one behind it has another input."""
    return not linear.word.startswith(("o_", "out", "c_proj", "dense"))
