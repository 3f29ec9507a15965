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
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.lora.bnb import Linear4bit as QuantizedLora
from peft.tuners.lora.layer import Linear as PlainLora
from transformers import BitsAndBytesConfig, Conv1D

from agent.trainer.failures import ModelFormatUnsupported, PrecisionUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.trainer.customization import Quantization
    from agent.trainer.device import Device


def loading(quantization: Quantization, device: Device) -> dict[str, Any]:
    """What `from_pretrained` is told in order to quantize while it loads.

    Raises:
        PrecisionUnsupported: the device cannot compute in the compute type.
    """
    if quantization.compute_dtype == "float16" and device.torch_device.type == "cpu":
        raise PrecisionUnsupported(
            "customization.qlora.bnb_4bit_compute_dtype: a CPU does not compute in float16; ask for bfloat16 or float32"
        )
    return {
        "device_map": {"": device.torch_device},
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
