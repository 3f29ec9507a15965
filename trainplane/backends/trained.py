"""How many numbers a method trains in a model: PEFT's arithmetic without PEFT, to which a test holds it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainplane.backends import peft_config
from trainplane.backends.model_shape import Linear, ModelShape, UnknownShape
from trainplane.backends.peft_methods import METHODS, VIRTUAL_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ALL_LINEAR = "all-linear"
LORA_LIKE = frozenset({"lora", "qlora", "dora", "adalora"})
_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d{1,6})")
_OFT_BLOCK, _BOFT_BLOCK = 32, 4
_VERA_RANK = 16
#: Names of feed-forward outputs, which (IA)3 scales before and not after; PEFT's own, by model type.
FEEDFORWARD = {
    "bloom": "mlp.dense_4h_to_h",
    "falcon": "dense_4h_to_h",
    "gemma": "down_proj",
    "gemma2": "down_proj",
    "gemma3_text": "down_proj",
    "gpt2": "mlp.c_proj",
    "gpt_bigcode": "mlp.c_proj",
    "gpt_neo": "c_proj",
    "gpt_neox": "dense_4h_to_h",
    "gptj": "fc_out",
    "llama": "down_proj",
    "llama4": "down_proj",
    "mistral": "down_proj",
    "opt": "fc2",
    "phi": "fc2",
    "qwen2": "down_proj",
    "qwen3": "down_proj",
}


@dataclass(frozen=True, slots=True)
class Trained:
    """What a method makes of a model.

    Attributes:
        count: how many numbers move.
        linears: the layers that it adapts; none for prompts, norms and whole models.
        kept: further numbers that it keeps in fp32 and does not move.
        own: whether what moves are the base model's own weights.
    """

    count: float
    linears: tuple[Linear, ...] = ()
    kept: float = 0.0
    own: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """The block `customization`, with what of the model it may touch."""

    method: str
    block: Mapping[str, Any]
    config: Mapping[str, Any]
    shape: ModelShape
    """Within the chosen layers."""
    whole: ModelShape

    @property
    def rank(self) -> int:
        return int(self.block.get("rank", _VERA_RANK))

    @property
    def targets(self) -> tuple[Linear, ...]:
        """The linear layers that are adapted."""
        wanted = self.block.get("target_modules") or [ALL_LINEAR]
        if ALL_LINEAR in wanted:
            if not self.shape.linears:
                raise UnknownShape("its files show no linear layers in its blocks")
            return self.shape.linears
        found = tuple(each for each in self.shape.linears if any(each.is_called(name) for name in wanted))
        for name in wanted:
            if not any(each.is_called(name) for each in found):
                raise UnknownShape(f"customization.target_modules: {name} is no linear layer of its blocks")
        return found


def trained(customization: Mapping[str, Any], whole: ModelShape) -> Trained:
    """What the method moves in this model.

    Args:
        customization: the effective spec's.
        whole: the model.

    Raises:
        UnknownShape: the shapes do not tell; the text says what.
    """
    method = customization["method"]
    config = peft_config.further(customization) if METHODS[method].peft_type else {}
    layers = [*customization.get("trainable_layers", ()), *_blocks(config.pop("layers_to_transform", []))]
    inside = whole.within(_share(layers, whole)) if layers else whole
    if config.get("init_lora_weights") == "eva" and (config.get("eva_config") or {}).get("rho", 2.0) > 1:
        raise UnknownShape("customization.peft.config.init_lora_weights `eva` finds the layers' ranks in the data")
    for name in ("modules_to_save", "rank_pattern", "exclude_modules"):
        if config.get(name):
            raise UnknownShape(f"customization.peft.config.{name} is not reckoned with")
    return _RULES[method](_Asked(method, customization, config, inside, whole))


def _blocks(numbers: int | list[int]) -> list[str]:
    return [f"layers.{number}" for number in ([numbers] if isinstance(numbers, int) else numbers)]


def _share(layers: list[str], shape: ModelShape) -> float:
    """The share of all blocks that these are."""
    numbers = set()
    for layer in layers:
        found = _LAYER.fullmatch(layer)
        if found is None:
            raise UnknownShape(f"customization.trainable_layers: {layer} is no decoder block by its name")
        if int(found[1]) < shape.layers:
            numbers.add(int(found[1]))
    return len(numbers) / shape.layers


def _lora(asked: _Asked) -> Trained:
    rank, targets = asked.rank, asked.targets
    count = sum(rank * (each.inputs + each.outputs) * each.count for each in targets)
    if asked.method == "dora" or asked.config.get("use_dora"):
        count += sum(each.outputs * each.count for each in targets)
    if asked.config.get("lora_bias"):
        count += sum(each.outputs * each.count for each in targets)
    bias = asked.config.get("bias", "none")
    if bias == "lora_only":
        count += sum(each.outputs * each.count for each in targets if each.bias)
    elif bias == "all":
        count += sum(each.numbers for each in asked.whole.tensors if each.pattern.endswith(".bias"))
    return Trained(count, targets)


def _adalora(asked: _Asked) -> Trained:
    rank = int(asked.config.get("init_r", asked.rank + (asked.rank + 1) // 2))
    targets = asked.targets
    return Trained(sum(rank * (each.inputs + each.outputs + 1) * each.count for each in targets), targets)


def _ia3(asked: _Asked) -> Trained:
    told = asked.config.get("feedforward_modules")
    known = FEEDFORWARD.get(str(asked.whole.config.get("model_type")))
    before = [told] if isinstance(told, str) else told if told is not None else [known] if known else []
    targets = asked.targets
    count = sum(
        (each.inputs if any(f".{each.name}".endswith(f".{name}") for name in before) else each.outputs) * each.count
        for each in targets
    )
    return Trained(count, targets)


def _vera(asked: _Asked) -> Trained:
    rank, targets = asked.rank, asked.targets
    shared = rank * (max(each.inputs for each in targets) + max(each.outputs for each in targets))
    return Trained(sum((rank + each.outputs) * each.count for each in targets), targets, kept=shared)


def _oft(asked: _Asked) -> Trained:
    rank, block, targets = int(asked.config.get("r") or 0), asked.config.get("oft_block_size"), asked.targets
    count = 0.0
    for each in targets:
        size = each.inputs // _divisor(each.inputs, rank) if rank else _divisor(each.inputs, int(block or _OFT_BLOCK))
        blocks = 1 if asked.config.get("block_share") else each.inputs // size
        count += blocks * (size * (size - 1) // 2) * each.count
    return Trained(count, targets)


def _divisor(width: int, wanted: int) -> int:
    """The divisor of a width that is nearest to what is wanted, the smaller of two as near; as PEFT adjusts it."""
    if wanted >= width:
        return width
    higher = next(size for size in range(wanted, width + 1) if width % size == 0)
    lower = next(size for size in range(wanted, 0, -1) if width % size == 0)
    return lower if wanted - lower <= higher - wanted else higher


def _boft(asked: _Asked) -> Trained:
    number, targets = int(asked.config.get("boft_block_num") or 0), asked.targets
    block = int(asked.config.get("boft_block_size") or _BOFT_BLOCK)
    count = sum(
        (each.inputs * (each.inputs // number if number else block) + each.outputs) * each.count for each in targets
    )
    # A permutation of every layer's inputs, as a matrix.
    return Trained(count, targets, kept=sum(each.inputs**2 * each.count for each in targets))


def _prompt_tuning(asked: _Asked) -> Trained:
    return Trained(_virtual(asked) * asked.whole.hidden)


def _prefix_tuning(asked: _Asked) -> Trained:
    shape = asked.whole
    width = shape.head_size * shape.kv_heads
    values = 2 * shape.layers * width
    if not asked.config.get("prefix_projection"):
        return Trained(_virtual(asked) * values)
    between = int(asked.config.get("encoder_hidden_size") or shape.hidden)
    return Trained(_virtual(asked) * width + (width + 1) * between + (between + 1) * values)


def _p_tuning(asked: _Asked) -> Trained:
    if asked.config.get("encoder_reparameterization_type", "MLP") != "MLP":
        raise UnknownShape("customization.peft.config.encoder_reparameterization_type LSTM is not reckoned with")
    width = asked.whole.hidden
    between = int(asked.config.get("encoder_hidden_size") or width)
    layers = (width + 1) * between + (between + 1) * between + (between + 1) * width
    return Trained(_virtual(asked) * width + layers)


def _virtual(asked: _Asked) -> int:
    return int(asked.config.get("num_virtual_tokens", VIRTUAL_TOKENS))


def _layernorm(asked: _Asked) -> Trained:
    wanted = asked.block.get("target_modules")
    norms = [
        each
        for each in asked.shape.norms
        if not wanted or any(each.module == name or each.module.endswith(f".{name}") for name in wanted)
    ]
    return Trained(sum(each.numbers for each in norms), own=True)


def _full(asked: _Asked) -> Trained:
    return Trained(asked.shape.parameters, own=True)


_RULES: dict[str, Callable[[_Asked], Trained]] = {
    "lora": _lora,
    "qlora": _lora,
    "dora": _lora,
    "adalora": _adalora,
    "ia3": _ia3,
    "vera": _vera,
    "oft": _oft,
    "boft": _boft,
    "prompt_tuning": _prompt_tuning,
    "prefix_tuning": _prefix_tuning,
    "p_tuning": _p_tuning,
    "layernorm": _layernorm,
    "full": _full,
}
