"""What a model's architecture does not allow to be exported is found by the look at it, before a device is charged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.inputs.failures import InputError
from agent.inputs.probe import probe

SAID = "export.gguf: only Llama's architecture is written as GGUF, and this model is gpt2; leave it out, and use export.merged"


@pytest.fixture(params=["hub", "s3", "local"])
def base_model(request, directory, mirror, store):
    """Of GPT-2's architecture, in each place where a model may be; and how to make it a Llama there."""
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    if request.param == "hub":
        mirror.serve("owner/name", directory)
        return {"provider": "huggingface", "model_name": "owner/name"}
    if request.param == "s3":
        for path in filter(Path.is_file, directory.iterdir()):
            store.put(f"s3://bucket/models/tiny/{path.name}", path.read_bytes())
        return {"provider": "s3", "model_name": "s3://bucket/models/tiny/"}
    return {"provider": "local", "model_name": str(directory)}


def test_gguf_of_another_architecture_is_refused_by_the_look(job, base_model):
    with pytest.raises(InputError) as refused:
        probe(job({"base_model": base_model, "export": {"gguf": True}}))
    assert (refused.value.reason, str(refused.value)) == ("CONFIG_INVALID", SAID)
    assert refused.value.lasting
    for export in ({}, {"export": {"gguf": False, "merged": True}}):
        assert probe(job({"base_model": base_model, **export}))["outcome"] in {"PASSED", "SKIPPED"}
    assert not list(job({}).directory.iterdir())
