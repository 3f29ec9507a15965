"""PEFT's configuration fields, by configuration class. Written by `make gen`; never edited.

Field -> what a value may be, and the default as PEFT writes it. `'word'` is that word alone; `object` is a class of
PEFT's own, which no JSON value is.
"""

from __future__ import annotations

Fields = dict[str, tuple[str, str]]

LORA: Fields = {
    "task_type": ("str", "None"),
    "peft_type": ("str", "None"),
    "auto_mapping": ("dict", "None"),
    "peft_version": ("str", "None"),
    "base_model_name_or_path": ("str", "None"),
    "revision": ("str", "None"),
    "inference_mode": ("bool", "False"),
    "r": ("int", "8"),
    "target_modules": ("str | list[str]", "None"),
    "exclude_modules": ("str | list[str]", "None"),
    "lora_alpha": ("int", "8"),
    "lora_dropout": ("float", "0.0"),
    "fan_in_fan_out": ("bool", "False"),
    "bias": ("'none' | 'all' | 'lora_only'", "'none'"),
    "use_rslora": ("bool", "False"),
    "modules_to_save": ("list[str]", "None"),
    "init_lora_weights": ("bool | 'gaussian' | 'eva' | 'olora' | 'pissa' | 'pissa_niter_[number of iters]' | 'corda' | 'loftq' | 'orthogonal' | 'mica'", "True"),
    "layers_to_transform": ("list[int] | int", "None"),
    "layers_pattern": ("str | list[str]", "None"),
    "rank_pattern": ("dict", "{}"),
    "alpha_pattern": ("dict", "{}"),
    "megatron_config": ("dict", "None"),
    "megatron_core": ("str", "'megatron.core'"),
    "trainable_token_indices": ("list[int] | dict", "None"),
    "loftq_config": ("object | dict", "{}"),
    "eva_config": ("object", "None"),
    "corda_config": ("object", "None"),
    "lora_ga_config": ("object", "None"),
    "use_dora": ("bool", "False"),
    "velora_config": ("object | dict", "None"),
    "alora_invocation_tokens": ("list[int]", "None"),
    "use_qalora": ("bool", "False"),
    "qalora_group_size": ("int", "16"),
    "monteclora_config": ("object", "None"),
    "layer_replication": ("list[object]", "None"),
    "runtime_config": ("object", "LoraRuntimeConfig(ephemeral_gpu_offload=False)"),
    "lora_bias": ("bool", "False"),
    "target_parameters": ("list[str]", "None"),
    "use_bdlora": ("object", "None"),
    "arrow_config": ("object", "None"),
    "kasa_config": ("object", "None"),
    "ensure_weight_tying": ("bool", "False"),
}
