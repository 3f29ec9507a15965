"""What a device cannot compute in is refused by the field that asks for it, with what it can."""

from __future__ import annotations

import pytest

from agent.trainer.arithmetic import Arithmetic, require_compute_type, require_precision
from agent.trainer.customization import COMPUTE_DTYPES, PRECISIONS, Customization, Quantization
from agent.trainer.failures import PrecisionUnsupported

T4 = Arithmetic("Tesla T4", on_gpu=True, bf16=False)
H100 = Arithmetic("NVIDIA H100", on_gpu=True, bf16=True)
CPU = Arithmetic("a CPU", on_gpu=False, bf16=True)


def test_bf16_is_refused_on_a_gpu_without_it():
    with pytest.raises(PrecisionUnsupported) as refused:
        require_precision("bf16", T4)
    assert str(refused.value) == "customization.precision: Tesla T4 cannot compute in bf16; ask for fp16 or fp32"


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_quantized_weights_are_not_computed_in_bf16_behind_another_precision(precision: str):
    job = Customization(method="qlora", precision=precision, quantization=Quantization())
    require_precision(job.precision, T4)
    with pytest.raises(PrecisionUnsupported) as refused:
        require_compute_type(job.compute_type, T4)
    assert str(refused.value).startswith(
        "customization.qlora.bnb_4bit_compute_dtype: Tesla T4 cannot compute in bfloat16"
    )
    assert str(refused.value).endswith("ask for float16 or float32")


def test_a_cpu_does_not_compute_in_float16():
    with pytest.raises(PrecisionUnsupported, match="ask for bfloat16 or float32"):
        require_compute_type("float16", CPU)


@pytest.mark.parametrize("able", [T4, H100, CPU], ids=lambda able: able.name)
def test_all_else_is_computed(able: Arithmetic):
    for precision in PRECISIONS:
        if precision != "bf16" or able.bf16:
            require_precision(precision, able)
    for compute_type in COMPUTE_DTYPES:
        if {"bfloat16": able.bf16, "float16": able.on_gpu}.get(compute_type, True):
            require_compute_type(compute_type, able)
