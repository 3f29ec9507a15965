"""What the trainer reads of a spec, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from agent.trainer.assignment import ALL_LINEAR, Lora, Tuning, deadline_seconds, parse
from agent.trainer.failures import ConfigInvalid, NotYetSupported, TrainingFailure

SPEC: dict[str, Any] = {
    "base_model": {"provider": "local", "model_name": "/models/tiny"},
    "customization": {"method": "lora"},
    "datasets": [{"source": "file:///data/a.jsonl"}],
}


def parsed(**changes: Any):
    return parse({"uid": "u", "job_id": "demo", "attempt": 2, "devices": [], "spec": {**SPEC, **changes}})


def test_a_small_spec_gets_the_defaults():
    assignment = parsed()
    assert (assignment.uid, assignment.job_id, assignment.attempt) == ("u", "demo", 2)
    assert assignment.model_name == "/models/tiny"
    assert assignment.precision == "bf16"
    assert assignment.tuning == Tuning()
    assert assignment.lora == Lora()


def test_every_field_arrives_where_it_belongs():
    tuning = {
        "learning_rate": 1e-3, "batch_size": 64, "num_epochs": 0.5, "max_steps": 7, "warmup_ratio": 0.1, "lr_scheduler": "cosine",
        "weight_decay": 0.01, "max_grad_norm": 0.5, "seed": 7, "gradient_checkpointing": True, "max_sequence_length": 128, "chat_template": "{{ x }}",
    }  # fmt: skip
    customization = {
        "method": "lora",
        "rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj"],
        "precision": "fp32",
    }
    datasets = [
        {"source": "file:///a", "columns": {"prompt": "q"}},
        {"source": "file:///b", "split": "eval", "weight": 1},
    ]
    assignment = parsed(tuning_parameters=tuning, customization=customization, datasets=datasets)
    assert assignment.tuning == Tuning(**tuning)
    assert (assignment.lora.rank, assignment.lora.alpha, assignment.lora.dropout) == (16, 32, 0.05)
    assert assignment.lora.target_modules == ("q_proj",)
    assert assignment.precision == "fp32"
    assert [(d.index, d.source, d.split, dict(d.columns)) for d in assignment.datasets] == [
        (0, "file:///a", "train", {"prompt": "q"}),
        (1, "file:///b", "eval", {}),
    ]


def test_null_and_absent_are_the_same():
    assignment = parsed(
        tuning_parameters={"learning_rate": None, "max_steps": None},
        customization={"method": "lora", "rank": None, "target_modules": None},
    )
    assert assignment.tuning == Tuning()
    assert assignment.lora == Lora()


def test_one_name_may_stand_for_a_list_of_one():
    assert parsed(customization={"target_modules": ALL_LINEAR}).lora.target_modules == (ALL_LINEAR,)


def test_the_blocks_of_other_methods_are_left_alone():
    customization = {
        "method": "lora",
        "qlora": {"use_double_quant": True},
        "peft": {"use": True, "config": {"task_type": "CAUSAL_LM"}},
    }
    assert parsed(customization=customization).lora.rank == 16


REFUSED = [
    ({"base_model": {"provider": "huggingface", "model_name": "a/b"}}, NotYetSupported, "base_model.provider"),
    ({"base_model": {"provider": "ftp", "model_name": "a/b"}}, ConfigInvalid, "base_model.provider"),
    ({"base_model": {"provider": "local"}}, ConfigInvalid, "base_model.model_name"),
    ({"base_model": {"model_name": "/m", "weights_url": "s3://b/m/"}}, NotYetSupported, "base_model.weights_url"),
    ({"customization": {"method": "dora"}}, NotYetSupported, "customization.method"),
    ({"customization": {"precision": "fp16"}}, NotYetSupported, "customization.precision"),
    ({"customization": {"precision": "int1"}}, ConfigInvalid, "customization.precision"),
    ({"customization": {"trainable_layers": ["layers.0"]}}, NotYetSupported, "customization.trainable_layers"),
    ({"customization": {"rank": 0}}, ConfigInvalid, "customization.rank"),
    ({"customization": {"lora_alpha": 0}}, ConfigInvalid, "customization.lora_alpha"),
    ({"customization": {"rank": 1.5}}, ConfigInvalid, "customization.rank"),
    ({"customization": {"rank": True}}, ConfigInvalid, "customization.rank"),
    ({"customization": {"lora_dropout": 1}}, ConfigInvalid, "customization.lora_dropout"),
    ({"customization": {"target_modules": [1]}}, ConfigInvalid, "customization.target_modules"),
    ({"customization": {"peft": {"use": False}}}, ConfigInvalid, "customization.peft.use"),
    ({"customization": {"peft": {"config": {"use_rslora": True}}}}, NotYetSupported, "customization.peft.config.use_rslora"),
    ({"customization": {"peft": {"config": {"task_type": "SEQ_CLS"}}}}, NotYetSupported, "customization.peft.config.task_type"),
    ({"datasets": []}, ConfigInvalid, "datasets"),
    ({"datasets": ["x"]}, ConfigInvalid, "datasets[0]"),
    ({"datasets": [{"source": "file:///a", "split": "eval"}]}, ConfigInvalid, "datasets"),
    ({"datasets": [{"source": "file:///a"}, {"source": "file:///a", "format": "csv"}]}, NotYetSupported, "datasets[1].format"),
    ({"datasets": [{"source": "file:///a", "weight": 0.5}]}, NotYetSupported, "datasets[0].weight"),
    ({"datasets": [{"source": "file:///a", "auth": {"role_arn": "arn:aws:iam::1:role/x"}}]}, NotYetSupported, "datasets[0].auth.role_arn"),
    ({"datasets": [{"source": "file:///a", "columns": {"text": 1}}]}, ConfigInvalid, "datasets[0].columns"),
    ({"tuning_parameters": {"learning_rate": 0}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"learning_rate": float("nan")}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"learning_rate": float("inf")}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"learning_rate": "fast"}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"batch_size": 0}}, ConfigInvalid, "tuning_parameters.batch_size"),
    ({"tuning_parameters": {"warmup_ratio": 1.1}}, ConfigInvalid, "tuning_parameters.warmup_ratio"),
    ({"tuning_parameters": {"lr_scheduler": "polynomial"}}, NotYetSupported, "tuning_parameters.lr_scheduler"),
    ({"tuning_parameters": {"optimizer": "lion"}}, NotYetSupported, "tuning_parameters.optimizer"),
    ({"tuning_parameters": {"packing": True}}, NotYetSupported, "tuning_parameters.packing"),
    ({"tuning_parameters": {"eval_fraction": 0.1}}, NotYetSupported, "tuning_parameters.eval_fraction"),
    ({"tuning_parameters": {"checkpoint_steps": 10}}, NotYetSupported, "tuning_parameters.checkpoint_steps"),
    ({"tuning_parameters": {"neftune_noise_alpha": 5}}, NotYetSupported, "tuning_parameters.neftune_noise_alpha"),
    ({"tuning_parameters": {"gradient_checkpointing": 1}}, ConfigInvalid, "tuning_parameters.gradient_checkpointing"),
    ({"tuning_parameters": []}, ConfigInvalid, "tuning_parameters"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "failure", "field"), REFUSED, ids=[f"{field}-{index}" for index, (_, _, field) in enumerate(REFUSED)]
)
def test_what_cannot_be_obeyed_is_refused_by_its_field(
    changes: dict[str, Any], failure: type[TrainingFailure], field: str
):
    with pytest.raises(failure) as caught:
        parsed(**copy.deepcopy(changes))
    assert str(caught.value).startswith(field)


def test_more_than_one_device_is_refused():
    with pytest.raises(NotYetSupported, match=r"resources\.gpus"):
        parse({"devices": ["0", "1"], "spec": SPEC})


def test_a_deadline_is_read_before_the_rest():
    assert deadline_seconds({"deadline_seconds": 12.5}) == 12.5
    assert deadline_seconds({}) is None
    with pytest.raises(ConfigInvalid):
        deadline_seconds({"deadline_seconds": "soon"})
