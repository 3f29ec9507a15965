"""The base model with what was trained merged in: an ordinary model directory, and proof that it is the same model.

    trained model ─ logits of a few examples ─► merge, layer by layer ─► shards ─► loaded as a user would ─ same logits?

In place, and each merged weight lies in a file that is mapped into memory: the host needs memory for a layer and a
shard, not for a second model, and the device's is freed. A weight is merged in fp32 and rounded once to the type that
the base model had while it was trained. Of a quantized base it is the dequantized weights that the adapter is merged
into: it is on them that it was trained (ADR 0025).
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM

from agent.trainer.data.examples import longest
from agent.trainer.failures import ConfigInvalid, MergeInexact
from agent.trainer.model import logged_warnings
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.trainer.data.tokens import Example
    from agent.trainer.model import AdaptedModel

SHARD_SIZE = "2GB"
PROBED_EXAMPLES, PROBED_TOKENS = 4, 64
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far logits may be off, relative to their spread. A merged weight is rounded where base and adapter were not added
up: in bf16 that is 2^-9 of each weight. Measured on SmolLM2-135M: fp32 2e-6, bf16 0.024; more layers, more."""

log = logging.getLogger("trainer")


@dataclass(frozen=True, slots=True)
class Probe:
    """What the trained model says to a few examples, before it is merged."""

    ids: tuple[torch.Tensor, ...]
    logits: tuple[torch.Tensor, ...]
    """In fp32 on the host, for every position."""
    untrained: tuple[torch.Tensor, ...]
    """The base model's; empty: it cannot be asked, for the adapter took its beginning out of it."""


def require_mergeable(adapted: AdaptedModel) -> None:
    """Refuse before training what could not be merged after it.

    Raises:
        ConfigInvalid: says what, and what to leave out.
    """
    model = adapted.base
    users = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    for name, layer in _tuner_layers(model):
        base = layer.get_base_layer()
        # Of a parameter that is adapted as such (experts are) the module has no `weight`.
        weight = getattr(base, layer.parameter_name if isinstance(layer, ParamWrapper) else "weight")
        if users.count(id(weight)) > 1:
            raise ConfigInvalid(
                f"export: {name} shares its weights with another module of this model, so what is trained in it "
                "cannot be merged; leave it out of customization.target_modules, or leave export out"
            )
        if any(getattr(layer, "lora_bias", {}).values()) and getattr(base, "bias", None) is None:
            raise ConfigInvalid(
                f"export: {name} has no bias to merge the adapter's into; leave customization.peft.config.lora_bias "
                "out, or leave export out"
            )


def probe(adapted: AdaptedModel, examples: Sequence[Example]) -> Probe:
    """Ask the trained model, and the base model beneath it."""
    device = adapted.device.torch_device
    chosen = longest(examples, PROBED_EXAMPLES)
    ids = tuple(torch.tensor(example.ids[:PROBED_TOKENS].tolist(), device=device)[None] for example in chosen)
    adapted.model.eval()
    with logged_warnings(), torch.inference_mode(), adapted.computing():
        logits = _logits(adapted.model, ids)
        untrained: tuple[torch.Tensor, ...] = ()
        if not adapted.moves_base:
            with adapted.model.disable_adapter():
                untrained = _logits(adapted.model, ids)
    return Probe(tuple(each.cpu() for each in ids), logits, untrained)


def merge(adapted: AdaptedModel, scratch: Path, dtype: torch.dtype) -> Any:
    """Merge in place; the model without any adapter, its merged weights in files below `scratch` that have no name.

    The adapted model is used up: nothing but what is returned may be used after this.

    Args:
        adapted: after its last step.
        scratch: a directory on a disk that has room for the merged weights.
        dtype: the base model's.

    Raises:
        MergeInexact: PEFT refuses, or a merged weight is not finite.
        OSError: the disk is full.
    """
    model = adapted.base
    if adapted.quantization is not None:
        from agent.trainer import quantized

        quantized.open_tuner_layers(model)
    with logged_warnings(), torch.no_grad():
        for name, layer in _tuner_layers(model):
            layer.get_base_layer().float()
            try:
                layer.merge(safe_merge=True)
            except (ValueError, RuntimeError) as error:
                raise MergeInexact(f"export.merged: {name} cannot be merged: {error}") from error
            _to_disk(layer.get_base_layer(), scratch, dtype)
            PULSE.beat()
        if adapted.quantization is not None:
            for layer in quantized.dequantized(model):
                _to_disk(layer, scratch, dtype)
                PULSE.beat()
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        return adapted.model.merge_and_unload()


def save(model: Any, tokenizer: Any, directory: Path, *, use_cache: bool, shard_size: str = SHARD_SIZE) -> None:
    """Write a merged model as a directory for `from_pretrained`, in shards.

    Raises:
        OSError: the disk is full.
    """
    model.config.use_cache = use_cache
    with logged_warnings():
        model.save_pretrained(str(directory), max_shard_size=shard_size)
        tokenizer.save_pretrained(str(directory))


def check(directory: Path, seen: Probe, device: torch.device, *, compute_type: str = "") -> dict[str, Any]:
    """Load what was written as a user would, and compare what it says with what the trained model said.

    Args:
        directory: the merged model's.
        seen: of the trained model.
        device: where to compute.
        compute_type: what quantized weights were computed in, which may be coarser than what is written.

    Returns:
        The facts for the provenance: the logits' differences as shares of their spread.

    Raises:
        MergeInexact: it says something else.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype="auto", local_files_only=True)
    dtype = model.dtype
    with torch.inference_mode():
        try:
            merged = _logits(model.to(device), [each.to(device) for each in seen.ids])
        except torch.OutOfMemoryError:
            merged = _logits(model.cpu(), seen.ids)
    computed_in = getattr(torch, compute_type) if compute_type else dtype
    difference, limit = _distance(merged, seen.logits), max(TOLERANCES[dtype], TOLERANCES[computed_in])
    effect = _distance(seen.untrained, seen.logits) if seen.untrained else None
    log.info("merged logit_difference=%.3g adapter_effect=%s limit=%g", difference, effect, limit)
    if not difference <= limit:
        raise MergeInexact(
            f"export.merged: the merged model's logits differ from the trained model's by {difference:.3g} of their "
            f"spread, more than the {limit:g} that rounding explains; nothing was published. Leave export out to get "
            "the adapter, and report this"
        )
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "logit_difference": round(difference, 9),
        "logit_difference_limit": limit,
        "adapter_effect": None if effect is None else round(effect, 9),
        "probed_tokens": sum(each.numel() for each in seen.ids),
    }


def _logits(model: Any, ids: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(model(input_ids=each, use_cache=False).logits[0].float().cpu() for each in ids)


def _distance(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Root mean square of the differences, over the wanted ones' own; what softmax takes no notice of is left out."""
    wrong = torch.cat(tuple(found)) - torch.cat(tuple(wanted))
    return (_spread(wrong) / _spread(torch.cat(tuple(wanted))).clamp(min=1e-12)).item()


def _spread(logits: torch.Tensor) -> torch.Tensor:
    return (logits - logits.mean(dim=-1, keepdim=True)).square().mean().sqrt()


def _tuner_layers(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer"):
            yield name, module


def _to_disk(module: Any, scratch: Path, dtype: torch.dtype) -> None:
    """Let a module's parameters lie in a file: the system may write them back when memory is short."""
    for name, parameter in module.named_parameters(recurse=False):
        turned = name == "weight" and getattr(module, "stands_transposed", False)
        parameter.data = _mapped((parameter.data.T if turned else parameter.data).to(dtype), scratch)


def _mapped(tensor: torch.Tensor, scratch: Path) -> torch.Tensor:
    descriptor, name = tempfile.mkstemp(dir=scratch)
    try:
        # A page that the disk has no room for would otherwise end the process by SIGBUS.
        os.posix_fallocate(descriptor, 0, tensor.numel() * tensor.element_size())
        flat = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    finally:
        os.close(descriptor)
        Path(name).unlink()
    return flat.view(tensor.shape).copy_(tensor)
