"""The memory that a training is estimated to take, held to what the trainer's own tensors come to at their fullest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.test_methods import PEFT_TELLS
from tests.support.peaks import Case, estimated_bytes, peak_bytes, write_small_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in PEFT_TELLS]

WHOLE = {"method": "full", "peft": {"use": False}}
#: What `make bench` measures has more of them, and larger ones; the limit there is 25 %.
CASES = (
    Case("lora", {"method": "lora", "rank": 16}),
    Case("a row longer than a pass", {"method": "lora", "rank": 16}, length=600, batch_size=2),
    Case("dropout", {"method": "lora", "rank": 16, "lora_dropout": 0.1}, length=64),
    Case("gradient checkpointing", {"method": "lora", "rank": 16}, tuning={"gradient_checkpointing": True}),
    Case("dora of two modules", {"method": "dora", "rank": 8, "target_modules": ["q_proj", "v_proj"]}, length=64),
    Case("full, one pass a step", WHOLE, batch_size=2),
    Case("full, checkpointed", WHOLE, tuning={"gradient_checkpointing": True}, batch_size=4),
    Case("prompt tuning", {"method": "prompt_tuning"}),
    Case("bf16", {"method": "lora", "rank": 16, "precision": "bf16"}),
    Case("qlora in bf16", {"method": "qlora", "rank": 16, "precision": "bf16"}, length=64),
    Case("oft in bf16", {"method": "oft", "precision": "bf16"}, length=64),
    Case("boft", {"method": "boft"}, length=32, batch_size=4),
    Case("boft in bf16", {"method": "boft", "precision": "bf16"}, length=32, batch_size=4),
    Case("packed", {"method": "lora", "rank": 16}, batch_size=12, tuning={"packing": True}),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("models") / "small", vocabulary=1024, blocks=3)


def test_attention_with_dropout_in_bf16_is_computed_in_fp32_and_so_reckoned(tmp_path: Path) -> None:
    gpt2 = write_small_model(tmp_path / "gpt2", vocabulary=1024, blocks=3, architecture="gpt2")
    case = Case("gpt2 in bf16", {"method": "lora", "rank": 16, "precision": "bf16"})
    assert estimated_bytes(gpt2, case) == pytest.approx(peak_bytes(gpt2, case), rel=0.1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_estimate_is_within_a_tenth_of_the_measured_peak(model: Path, case: Any) -> None:
    assert estimated_bytes(model, case) == pytest.approx(peak_bytes(model, case), rel=0.1)
