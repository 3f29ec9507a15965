"""Fields of `customization` that contradict the method: (method, the other fields, the field that is told)."""

from __future__ import annotations

from typing import Any

BAD_METHODS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("ia3", {"rank": 8}, "rank"),
    ("ia3", {"lora_alpha": 8}, "lora_alpha"),
    ("ia3", {"lora_dropout": 0.1}, "lora_dropout"),
    ("vera", {"lora_alpha": 8}, "lora_alpha"),
    ("oft", {"rank": 8}, "rank"),
    ("boft", {"lora_dropout": 0.1}, "lora_dropout"),
    ("prompt_tuning", {"target_modules": ["q_proj"]}, "target_modules"),
    ("prefix_tuning", {"rank": 8}, "rank"),
    ("prefix_tuning", {"trainable_layers": ["layers.0"]}, "trainable_layers"),
    ("layernorm", {"rank": 8}, "rank"),
    ("layernorm", {"target_modules": ["all-linear"]}, "target_modules"),
    ("full", {"target_modules": ["q_proj"]}, "target_modules"),
    ("full", {"peft": {"use": False, "config": {"r": 8}}}, "peft.config"),
    ("full", {"peft": {"use": True}}, "peft.use"),
    ("ia3", {"peft": {"use": False}}, "peft.use"),
    ("dora", {"peft": {"config": {"use_dora": False}}}, "peft.config.use_dora"),
    ("adalora", {"peft": {"config": {"target_r": 8}}}, "peft.config.target_r"),
    ("vera", {"peft": {"config": {"vera_dropout": 0.5}}}, "peft.config.vera_dropout"),
    ("p_tuning", {"peft": {"config": {"peft_type": "PREFIX_TUNING"}}}, "peft.config.peft_type"),
)
