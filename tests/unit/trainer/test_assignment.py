"""What the trainer reads of a spec, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from agent.trainer.assignment import Tuning, parse, terms, world_size
from agent.trainer.customization import ALL_LINEAR, Adapter, Customization, Quantization
from agent.trainer.failures import ConfigInvalid, NotYetSupported, PrecisionUnsupported, TrainingFailure
from agent.trainer.inputs import FetchedDataset, FetchedModel, Inputs
from agent.trainer.stopping import PATIENCE_SECONDS, Terms

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
    assert assignment.model == FetchedModel(path="/models/tiny", name="/models/tiny", commit="")
    assert assignment.tuning == Tuning()
    assert assignment.customization == Customization("lora", "bf16", Adapter(), None)
    assert assignment.world_size == 1


def test_every_field_arrives_where_it_belongs():
    tuning = {
        "learning_rate": 1e-3, "batch_size": 64, "num_epochs": 0.5, "max_steps": 7, "warmup_ratio": 0.1, "lr_scheduler": "cosine",
        "weight_decay": 0.01, "max_grad_norm": 0.5, "seed": 7, "gradient_checkpointing": True, "max_sequence_length": 128, "chat_template": "{{ x }}",
        "packing": True, "eval_fraction": 0.25, "neftune_noise_alpha": 5,
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
        {"source": "file:///b", "weight": 0.5},
    ]
    assignment = parsed(tuning_parameters=tuning, customization=customization, datasets=datasets)
    assert assignment.tuning == Tuning(**tuning)
    lora = assignment.customization.adapter
    assert (lora.rank, lora.alpha, lora.dropout, lora.target_modules) == (16, 32, 0.05, ("q_proj",))
    assert assignment.customization.precision == "fp32"
    assert [(d.index, d.source, d.weight, dict(d.columns)) for d in assignment.datasets] == [
        (0, "file:///a", None, {"prompt": "q"}),
        (1, "file:///b", 0.5, {}),
    ]


def test_null_and_absent_are_the_same():
    assignment = parsed(
        tuning_parameters={"learning_rate": None, "max_steps": None},
        customization={"method": "lora", "rank": None, "target_modules": None},
    )
    assert assignment.tuning == Tuning()
    assert assignment.customization.adapter == Adapter()


def test_one_name_may_stand_for_a_list_of_one():
    assert parsed(customization={"target_modules": ALL_LINEAR}).customization.adapter.target_modules == (ALL_LINEAR,)


def test_the_blocks_of_other_methods_are_left_alone():
    customization = {
        "method": "lora",
        "qlora": {"use_double_quant": True},
        "peft": {"use": True, "config": {"task_type": "CAUSAL_LM"}},
    }
    assert parsed(customization=customization).customization == Customization()


def test_qlora_s_block_is_read_for_qlora():
    block = {"use_double_quant": False, "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_type": "fp4"}
    read = parsed(customization={"method": "qlora", "qlora": block}).customization
    assert read.quantization == Quantization(kind="fp4", double=False, compute_dtype="float32")
    assert parsed(customization={"method": "qlora"}).customization.quantization == Quantization()


def test_peft_s_own_fields_go_to_peft_but_those_with_a_place_here():
    config = {"task_type": "CAUSAL_LM", "r": 16, "use_rslora": True, "layers_to_transform": [0, 3]}
    lora = parsed(customization={"method": "lora", "peft": {"config": config}}).customization.adapter
    assert dict(lora.config) == {"use_rslora": True}
    assert lora.trainable_layers == ("layers.0", "layers.3")


def test_what_was_fetched_is_read_from_there_and_called_by_its_name():
    model = FetchedModel(path="/cache/x", name="owner/name", commit="abc")
    spec = {
        **SPEC,
        "base_model": {"provider": "huggingface", "model_name": "owner/name"},
        "datasets": [{"source": "s3://b/a.jsonl"}, {"source": "file:///b.jsonl"}],
    }
    assignment = parse(
        {"spec": spec}, Inputs(model, (FetchedDataset("/inputs/a.jsonl"), FetchedDataset("/b.jsonl", "0123")))
    )
    assert assignment.model == model
    assert [(d.source, d.fetched, d.commit) for d in assignment.datasets] == [
        ("s3://b/a.jsonl", "/inputs/a.jsonl", ""),
        ("file:///b.jsonl", "/b.jsonl", "0123"),
    ]
    with pytest.raises(ConfigInvalid, match="1 paths for the spec's 2 datasets"):
        parse({"spec": spec}, Inputs(model, (FetchedDataset("/inputs/a.jsonl"),)))


REFUSED = [
    ({"base_model": {"provider": "huggingface", "model_name": "a/b"}}, NotYetSupported, "base_model.provider"),
    ({"base_model": {"provider": "ftp", "model_name": "a/b"}}, ConfigInvalid, "base_model.provider"),
    ({"base_model": {"provider": "local"}}, ConfigInvalid, "base_model.model_name"),
    ({"base_model": {"model_name": "/m", "weights_url": "s3://b/m/"}}, NotYetSupported, "base_model.weights_url"),
    ({"customization": {"method": "turbo"}}, ConfigInvalid, "customization.method"),
    ({"customization": {"precision": "fp16"}}, PrecisionUnsupported, "customization.precision"),
    ({"customization": {"precision": "int1"}}, ConfigInvalid, "customization.precision"),
    ({"customization": {"method": "qlora", "qlora": {"bnb_4bit_quant_type": "int4"}}}, ConfigInvalid, "customization.qlora.bnb_4bit_quant_type"),
    ({"customization": {"rank": 0}}, ConfigInvalid, "customization.rank"),
    ({"customization": {"lora_alpha": 0}}, ConfigInvalid, "customization.lora_alpha"),
    ({"customization": {"rank": 1.5}}, ConfigInvalid, "customization.rank"),
    ({"customization": {"rank": True}}, ConfigInvalid, "customization.rank"),
    ({"customization": {"lora_dropout": 1}}, ConfigInvalid, "customization.lora_dropout"),
    ({"customization": {"target_modules": [1]}}, ConfigInvalid, "customization.target_modules"),
    ({"customization": {"peft": {"use": False}}}, ConfigInvalid, "customization.peft.use"),
    ({"customization": {"peft": {"config": {"use_rslora": 1}}}}, ConfigInvalid, "customization.peft.config.use_rslora"),
    ({"customization": {"peft": {"config": {"init_lora_weights": "corda"}}}}, NotYetSupported, "customization.peft.config.init_lora_weights"),
    ({"customization": {"peft": {"config": {"task_type": "SEQ_CLS"}}}}, NotYetSupported, "customization.peft.config.task_type"),
    ({"datasets": []}, ConfigInvalid, "datasets"),
    ({"datasets": ["x"]}, ConfigInvalid, "datasets[0]"),
    ({"datasets": [{"source": "file:///a", "split": "eval"}]}, ConfigInvalid, "datasets"),
    ({"datasets": [{"source": "file:///a"}, {"source": "file:///a", "format": "xml"}]}, ConfigInvalid, "datasets[1].format"),
    ({"datasets": [{"source": "file:///a", "weight": 0}]}, ConfigInvalid, "datasets[0].weight"),
    ({"datasets": [{"source": "file:///a", "columns": {"text": 1}}]}, ConfigInvalid, "datasets[0].columns"),
    ({"tuning_parameters": {"learning_rate": 0}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"learning_rate": float("nan")}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"learning_rate": float("inf")}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"learning_rate": "fast"}}, ConfigInvalid, "tuning_parameters.learning_rate"),
    ({"tuning_parameters": {"batch_size": 0}}, ConfigInvalid, "tuning_parameters.batch_size"),
    ({"tuning_parameters": {"warmup_ratio": 1.1}}, ConfigInvalid, "tuning_parameters.warmup_ratio"),
    ({"tuning_parameters": {"lr_scheduler": "polynomial"}}, NotYetSupported, "tuning_parameters.lr_scheduler"),
    ({"tuning_parameters": {"optimizer": "lion"}}, NotYetSupported, "tuning_parameters.optimizer"),
    ({"tuning_parameters": {"packing": 1}}, ConfigInvalid, "tuning_parameters.packing"),
    ({"tuning_parameters": {"eval_fraction": 1}}, ConfigInvalid, "tuning_parameters.eval_fraction"),
    ({"tuning_parameters": {"eval_fraction": 0.1}, "datasets": [{"source": "file:///a"}, {"source": "file:///b", "split": "eval"}]}, ConfigInvalid, "tuning_parameters.eval_fraction"),
    ({"tuning_parameters": {"checkpoint_steps": -1}}, ConfigInvalid, "tuning_parameters.checkpoint_steps"),
    ({"tuning_parameters": {"neftune_noise_alpha": -1}}, ConfigInvalid, "tuning_parameters.neftune_noise_alpha"),
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


def test_there_is_a_rank_for_each_device_unless_the_assignment_says_how_many():
    assert world_size({"devices": []}) == world_size({"devices": ["3"]}) == 1
    assert world_size({"devices": ["0", "1"]}) == 2
    assert world_size({"devices": [], "world_size": 4}) == 4


def test_ranks_that_cannot_share_devices_or_the_batch_are_refused():
    with pytest.raises(ConfigInvalid, match="3 ranks cannot share 2 devices"):
        parse({"devices": ["0", "1"], "world_size": 3, "spec": SPEC})
    with pytest.raises(ConfigInvalid, match=r"^tuning_parameters\.batch_size: .* a multiple of 3, got 8"):
        parse({"devices": [], "world_size": 3, "spec": SPEC})


def test_fp16_is_for_gpus():
    """On CPUs it is refused, above."""
    made = parse({"devices": ["0"], "spec": {**SPEC, "customization": {"precision": "fp16"}}})
    assert made.customization.precision == "fp16"


def test_a_deadline_is_read_before_the_rest():
    document = {
        "uid": "u",
        "deadline_seconds": 12.5,
        "checkpoint_grace_seconds": 3,
        "spec": {"artifacts": {"output_uri": "s3://b/o"}},
    }
    assert terms(document, Path("/attempt")) == Terms("/attempt", 12.5, 3, "s3://b/o", "u")
    assert terms({}, Path("/attempt")) == Terms("/attempt", None, PATIENCE_SECONDS)
    for name in ("deadline_seconds", "checkpoint_grace_seconds"):
        with pytest.raises(ConfigInvalid, match=name):
            terms({name: "soon"}, Path("/attempt"))
