"""What is estimated without torch, held to what the trainer really has: every method, on three architectures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.test_methods import PEFT_TELLS, UNSUPPORTED
from tests.support.shapes import shape_of
from tests.support.tiny_models import ARCHITECTURES, write_tiny_model
from trainplane.backends.peft_methods import METHODS
from trainplane.backends.trained import FEEDFORWARD, trained

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in PEFT_TELLS]

FURTHER: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("lora", {"rank": 4, "target_modules": ["all-linear"], "trainable_layers": ["layers.1"]}, {}),
    ("lora", {"rank": 4}, {"use_dora": True, "lora_bias": False, "bias": "none"}),
    ("lora", {"rank": 4}, {"bias": "lora_only"}),
    ("lora", {"rank": 4}, {"bias": "all"}),
    ("lora", {"rank": 4}, {"lora_bias": True}),
    ("adalora", {"rank": 4}, {"init_r": 9}),
    ("oft", {}, {"r": 7}),
    ("oft", {}, {"block_share": True, "oft_block_size": 16}),
    ("boft", {}, {"boft_block_num": 6}),
    ("prompt_tuning", {}, {"num_virtual_tokens": 5}),
    ("prefix_tuning", {}, {"prefix_projection": True, "encoder_hidden_size": 24}),
    ("p_tuning", {}, {"encoder_hidden_size": 24}),
    ("full", {"trainable_layers": ["layers.0", "decoder.layers.2"]}, {}),
    ("ia3", {"trainable_layers": ["layers.0"]}, {}),
]
CASES = [(model, method, {}, {}) for model in ARCHITECTURES for method in METHODS if (model, method) not in UNSUPPORTED]
CASES += [(model, *case) for model in ("llama", "gpt2") for case in FURTHER if (model, case[0]) not in UNSUPPORTED]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("architectures")
    return {name: write_tiny_model(directory / name, architecture=name) for name in ARCHITECTURES}


def adapted(model: Path, customization: dict[str, Any]) -> Any:
    """The model as the trainer adapts it."""
    from agent.trainer.assignment import parse
    from agent.trainer.device import choose
    from agent.trainer.model import adapt, load_base, load_tokenizer
    from agent.trainer.model_files import inspect_model

    spec = {
        "base_model": {"provider": "local", "model_name": str(model)},
        "customization": customization,
        "datasets": [{"source": "file:///rows.jsonl"}],
        "tuning_parameters": {"learning_rate": 1e-3, "batch_size": 4},
    }
    document = {"uid": "01JTEST", "job_id": "j", "project": "default", "attempt": 1, "devices": [], "spec": spec}
    assignment = parse(document, None)
    files = inspect_model(model, called="tiny")
    device = choose("fp32", wants_gpu=False)
    return adapt(load_base(files, assignment.customization, device), assignment, load_tokenizer(files), device)


@pytest.mark.parametrize(("name", "method", "block", "config"), CASES)
def test_as_many_parameters_are_reckoned_as_peft_has(
    models: dict[str, Path], name: str, method: str, block: dict[str, Any], config: dict[str, Any]
) -> None:
    peft = {"config": config} if method != "full" else {"use": False}
    customization = {"method": method, "precision": "fp32", "peft": peft, **block}
    found, shape = adapted(models[name], customization), shape_of(models[name])
    assert trained(customization, shape).count == pytest.approx(found.trainable_count)
    assert shape.parameters == found.parameters


def test_the_feed_forward_modules_are_those_that_peft_knows() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as KNOWN

    assert {name: KNOWN[name] for name in FEEDFORWARD} == {name: [word] for name, word in FEEDFORWARD.items()}


def test_the_shape_of_a_config_is_json_alone(models: dict[str, Path]) -> None:
    assert json.loads((models["llama"] / "config.json").read_text())["num_key_value_heads"] == 2
    assert (shape_of(models["llama"]).kv_heads, shape_of(models["llama"]).head_size) == (2, 12)
