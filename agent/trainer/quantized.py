"""QLoRA's base model: linear layers in four bits by bitsandbytes, on a GPU or a CPU.

Only the linear layers are quantized. Everything else (embeddings, norms, the output head) is in the job's precision,
and so is what flows between layers; a weight is expanded to the compute type for its product. PEFT's
`prepare_model_for_kbit_training` would make all of that fp32, which costs twice the memory of the activations and the
head, and lets `precision: bf16` say what is not so; of what it does, freezing the base is done by PEFT anyway, and
gradient checkpointing by `model.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft.tuners.lora.bnb import Linear4bit as QuantizedLora
from peft.tuners.lora.layer import Linear as PlainLora
from transformers import BitsAndBytesConfig, Conv1D

from agent.trainer.failures import ModelFormatUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agent.trainer.customization import Quantization


def loading(quantization: Quantization, onto: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told in order to quantize while it loads.

    Args:
        quantization: how.
        onto: where the weights go.
    """
    return {
        "device_map": {"": onto},
        "quantization_config": BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.kind,
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype),
        ),
    }


def pin(base: Any) -> Any:
    """Have the quantized weights stay what they are, whatever the CPU; the model.

    Where a CPU has AVX512 for bf16, bitsandbytes packs a weight anew when it is first evaluated. That rounds its scales
    to bf16, so that an evaluation changes the base that is trained on, and fails for widths that are no multiple of 32.
    """
    for module in base.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return base


def told(base: Any) -> list[dict[str, Any]]:
    """What another process must know in order to build the same model of shapes alone; scales and codes are in it."""
    layers: list[tuple[str, Any]] = [each for each in base.named_modules() if isinstance(each[1], Linear4bit)]
    return [
        {
            "name": name,
            "sizes": (module.in_features, module.out_features),
            "bias": None if module.bias is None else module.bias.dtype,
            "compute_dtype": module.compute_dtype,
            "source_cls": getattr(module, "source_cls", None),
            "quant_type": module.weight.quant_type,
            "compress_statistics": module.weight.compress_statistics,
            "packed": (tuple(module.weight.shape), module.weight.dtype),
            "state": module.weight.quant_state.as_dict(packed=True),
        }
        for name, module in layers
    ]


def build(base: Any, layers: Sequence[Mapping[str, Any]]) -> Any:
    """Replace layers of a model of shapes alone by quantized ones, as `told` has them; the model."""
    for each in layers:
        inputs, outputs = each["sizes"]
        made: Any = Linear4bit(  # type: ignore[no-untyped-call]
            inputs,
            outputs,
            each["bias"] is not None,
            compute_dtype=each["compute_dtype"],
            compress_statistics=each["compress_statistics"],
            quant_type=each["quant_type"],
            device="meta",
        )
        shape, dtype = each["packed"]
        made.weight = Params4bit(
            torch.empty(shape, dtype=dtype, device="meta"),
            quant_state=QuantState.from_dict(dict(each["state"]), device=torch.device("cpu")),
            quant_type=each["quant_type"],
            compress_statistics=each["compress_statistics"],
            bnb_quantized=True,
        )
        if each["bias"] is not None:
            made.bias = torch.nn.Parameter(made.bias.to(each["bias"]), requires_grad=False)
        made.source_cls = each["source_cls"]
        base.set_submodule(each["name"], made)
    base.is_loaded_in_4bit = True
    return pin(base)


def keep_states(model: Any, device: torch.device) -> None:
    """Let layers have the scales and codes that their weights had, for when those are mere parts; on that device."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state: Any = getattr(module.weight, "quant_state", None) or module.quant_state
            state.to(device)
            module.quant_state = state


def restore(model: Any) -> None:
    """Make weights that are whole again, on the host, what bitsandbytes takes."""
    keep_states(model, torch.device("cpu"))
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state: Any = module.quant_state
            module.weight = Params4bit(
                module.weight.data,
                quant_state=state,
                quant_type=state.quant_type,
                compress_statistics=state.nested,
                bnb_quantized=True,
            )


def stands_transposed(model: Any) -> bool:
    """Whether the adapted layers lie transposed in the model as it is without quantization (GPT-2's do).

    That is the model that the adapter will be put on; PEFT's `fan_in_fan_out` says it there.
    """
    adapted = [module.base_layer for module in model.modules() if hasattr(module, "base_layer")]
    return any(getattr(layer, "source_cls", None) is Conv1D for layer in adapted)


def facts(base: Any) -> dict[str, Any]:
    """What was really quantized, for the provenance.

    Raises:
        ModelFormatUnsupported: nothing was.
    """
    layers = [module for module in base.modules() if isinstance(module, Linear4bit)]
    if not layers:
        raise ModelFormatUnsupported(
            "customization.method: qlora found no linear layer in this model that bitsandbytes can quantize; use lora"
        )
    weight: Any = layers[0].weight
    return {
        "bits": 4,
        "type": weight.quant_type,
        "double_quant": weight.compress_statistics,
        "compute_dtype": str(layers[0].compute_dtype).removeprefix("torch."),
        "modules": len(layers),
        "bytes": sum(layer.weight.numel() * layer.weight.element_size() for layer in layers),
    }


def open_tuner_layers(base: Any) -> None:
    """Give each adapted layer its base as the plain fp32 layer that it stands for, so that it merges like any other.

    PEFT's own merge would quantize the sum again, and lose most of what was trained.
    """
    for module in base.modules():
        if isinstance(module, QuantizedLora):
            module.base_layer = _plain(module.get_base_layer())
            module.__class__ = PlainLora  # type: ignore[assignment]  # the same adapter and attributes, over a layer that is not quantized


def dequantized(base: Any) -> Iterator[Any]:
    """Replace each layer that is still quantized by the plain fp32 one that it stands for, and hand it out at once."""
    for name, module in list(base.named_modules()):
        if isinstance(module, Linear4bit):
            plain = _plain(module)
            base.set_submodule(name, plain)
            yield plain
    base.hf_quantizer = None
    del base.config.quantization_config


def _plain(quantized: Any) -> Any:
    with torch.device("meta"):
        plain: Any = torch.nn.Linear(quantized.in_features, quantized.out_features, bias=quantized.bias is not None)
    weight = dequantize_4bit(quantized.weight.data, quantized.weight.quant_state)
    plain.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    if quantized.bias is not None:
        plain.bias = torch.nn.Parameter(quantized.bias.data.float(), requires_grad=False)
    plain.stands_transposed = getattr(quantized, "source_cls", None) is Conv1D
    return plain
