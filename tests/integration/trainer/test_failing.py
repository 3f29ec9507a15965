"""Everything that can be wrong with a job ends in its own reason, and in words that name the field."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt, failed_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def model_copy(tmp_path: Path, tiny_model: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    return copy


@pytest.fixture
def on_copy(tmp_path: Path, model_copy: Path) -> Attempt:
    """An attempt whose model may be spoiled."""
    (tmp_path / "attempt").mkdir()
    attempt = Attempt(tmp_path / "attempt", model_copy)
    attempt.assign(tuning_parameters={"max_steps": 1})
    return attempt


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def only_pickle(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def remote_code(model: Path) -> None:
    rewrite(model / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})


def remote_tokenizer(model: Path) -> None:
    rewrite(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})


def an_adapter_beside_it(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')


def unknown_architecture(model: Path) -> None:
    rewrite(model / "config.json", model_type="made_up", architectures=["MadeUp"])


def not_a_language_model(model: Path) -> None:
    rewrite(model / "config.json", model_type="vit", architectures=["ViTModel"])


def broken_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def cut_weights(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def weights_of_another_shape(model: Path) -> None:
    rewrite(model / "config.json", hidden_size=64)


def a_layer_missing(model: Path) -> None:
    rewrite(model / "config.json", num_hidden_layers=3)


def broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"model": {"type": "Nonsense"}}')


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()


def quantized(model: Path) -> None:
    rewrite(model / "config.json", quantization_config={"quant_method": "gptq"})


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (only_pickle, "MODEL_FORMAT_UNSUPPORTED", "pytorch_model.bin; pickled weights can run code"),
        (no_weights, "MODEL_FORMAT_UNSUPPORTED", "has no model*.safetensors; it has"),
        (remote_code, "MODEL_FORMAT_UNSUPPORTED", "auto_map"),
        (remote_tokenizer, "MODEL_FORMAT_UNSUPPORTED", "auto_map"),
        (an_adapter_beside_it, "MODEL_FORMAT_UNSUPPORTED", "holds an adapter"),
        (unknown_architecture, "MODEL_FORMAT_UNSUPPORTED", "made_up"),
        (not_a_language_model, "MODEL_FORMAT_UNSUPPORTED", "cannot be loaded"),
        (broken_config, "MODEL_FORMAT_UNSUPPORTED", "config.json is not JSON"),
        (cut_weights, "MODEL_FORMAT_UNSUPPORTED", "model.safetensors was cut off: it has "),
        (weights_of_another_shape, "MODEL_FORMAT_UNSUPPORTED", "cannot be loaded"),
        (a_layer_missing, "MODEL_FORMAT_UNSUPPORTED", "are not in its files, the first model.layers.2."),
        (broken_tokenizer, "MODEL_FORMAT_UNSUPPORTED", "its tokenizer cannot be loaded"),
        (no_tokenizer, "MODEL_FORMAT_UNSUPPORTED", "tokenizer"),
        (quantized, "NOT_YET_SUPPORTED", "quantized"),
        (shutil.rmtree, "MODEL_NOT_FOUND", "there is no directory"),
        (lambda model: (model / "config.json").unlink(), "MODEL_NOT_FOUND", "there is no config.json"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_that_cannot_be_trained_is_refused(
    on_copy: Attempt, spoil: Callable[[Path], Any], reason: str, words: str
):
    spoil(on_copy.model)
    got, message = failed_with(on_copy)
    assert got == reason, message
    assert message.startswith("base_model.model_name: ")
    assert words in message
    assert not on_copy.output.exists()


def test_a_relative_model_path_is_no_local_model(attempt: Attempt):
    attempt.assign(base_model={"model_name": "meta-llama/Llama-2-7b"})
    assert failed_with(attempt)[0] == "MODEL_NOT_FOUND"


def test_a_target_that_matches_nothing_lists_what_there_is(attempt: Attempt):
    attempt.assign(customization={"target_modules": ["q_proj", "query"]})
    reason, message = failed_with(attempt)
    assert reason == "TARGET_MODULES_NOT_FOUND"
    assert "query matches no module" in message
    assert "down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in message


@pytest.mark.parametrize("name", ["self_attn", "proj", "model", "_proj"])
def test_a_target_must_be_a_whole_name_of_a_layer(attempt: Attempt, name: str):
    attempt.assign(customization={"target_modules": [name]})
    assert failed_with(attempt)[0] == "TARGET_MODULES_NOT_FOUND"


def test_a_broken_row_is_told_before_torch_would_be_needed(attempt: Attempt):
    attempt.assign(rows=['{"text": "a"}'] * 6 + ['{"text": 5}'])
    reason, message = failed_with(attempt)
    assert reason == "DATASET_INVALID"
    assert message.startswith("datasets[0].source: row 7 of ")


def test_rows_without_a_trainable_token_end_in_words(attempt: Attempt):
    attempt.assign(
        rows=[{"prompt": "What is two? " * 20, "completion": "Four."}], tuning_parameters={"max_sequence_length": 16}
    )
    reason, message = failed_with(attempt)
    assert reason == "DATASET_EMPTY"
    assert (
        "no row of split train has a token to train on within 16 tokens; the first such is datasets[0].source: row 1"
        in message
    )


def test_an_empty_eval_split_ends_it_before_the_training(attempt: Attempt):
    rows = attempt.dataset([{"prompt": "a", "completion": ""}], "eval.jsonl")
    attempt.assign(datasets=[{"source": attempt.dataset([{"text": "hello there"}])}, {"source": rows, "split": "eval"}])
    assert failed_with(attempt)[0] == "DATASET_EMPTY"
    assert not attempt.said("progress")


def test_messages_need_a_template(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    from tests.support.tiny_models import CHATML, write_tiny_model

    attempt = Attempt(tmp_path, write_tiny_model(tmp_path_factory.mktemp("models") / "bare", chat_template=None))
    rows = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}]
    attempt.assign(rows=rows, tuning_parameters={"max_steps": 1})
    reason, message = failed_with(attempt)
    assert reason == "CHAT_TEMPLATE_MISSING"
    assert "tuning_parameters.chat_template" in message
    (tmp_path / "again").mkdir()
    again = Attempt(tmp_path / "again", attempt.model)
    again.assign(rows=rows, tuning_parameters={"max_steps": 1, "chat_template": CHATML})
    assert again.run() == 0


def test_a_loss_that_explodes_is_told_and_leaves_no_output(attempt: Attempt):
    attempt.assign(tuning_parameters={"learning_rate": 1e30, "max_grad_norm": 0, "num_epochs": 20})
    reason, message = failed_with(attempt)
    assert reason == "LOSS_NOT_FINITE"
    assert "tuning_parameters.learning_rate: at step" in message
    assert not attempt.output.exists()


def test_a_device_that_torch_cannot_use_is_told(attempt: Attempt):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one that it can use")
    attempt.assign()
    path = attempt.directory / "assignment.json"
    rewrite(path, devices=["0"])
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith("resources.gpus: ")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"spec": 5}', "{}"])
def test_an_assignment_that_cannot_be_read_is_told(attempt: Attempt, content: str | None):
    if content is not None:
        (attempt.directory / "assignment.json").write_text(content)
    assert failed_with(attempt)[0] == "CONFIG_INVALID"


def test_a_full_disk_is_told(attempt: Attempt):
    """/dev/full stands where the provenance would be written."""
    attempt.assign(tuning_parameters={"max_steps": 1})
    attempt.output.mkdir()
    (attempt.output / "provenance.json").symlink_to("/dev/full")
    assert failed_with(attempt)[0] == "DISK_FULL"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_a_model_that_may_not_be_read_is_denied(on_copy: Attempt):
    from agent.trainer.failures import StorageDenied
    from agent.trainer.model_files import inspect_model

    (on_copy.model / "config.json").chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(StorageDenied, match="may not be read"):
            inspect_model(str(on_copy.model))
    finally:
        os.seteuid(0)
