"""How each method trains where it can be made to draw random numbers of its own, so that going on without them shows.

`customization`, but for `method`. Methods that are not here have nothing to draw with.
"""

from __future__ import annotations

from typing import Any

DRAWING: dict[str, dict[str, Any]] = {
    "lora": {"lora_dropout": 0.2},
    "qlora": {"lora_dropout": 0.2, "precision": "bf16"},
    "dora": {"lora_dropout": 0.2},
    "adalora": {"lora_dropout": 0.2},
    "vera": {"peft": {"config": {"vera_dropout": 0.2}}},
    "oft": {"peft": {"config": {"module_dropout": 0.2, "use_cayley_neumann": False}}},
    "boft": {"peft": {"config": {"boft_dropout": 0.2}}},
    "p_tuning": {"peft": {"config": {"encoder_reparameterization_type": "LSTM", "encoder_dropout": 0.2}}},
    "prefix_tuning": {"peft": {"config": {"prefix_projection": True}}},
}
