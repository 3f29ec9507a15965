"""What a model's architecture does not allow to be exported is found by the look at it, before a device is charged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.inputs.failures import InputError
from agent.inputs.probe import probe

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
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


@pytest.mark.parametrize(
    ("tokenizer", "refused"),
    [
        ({"model": {"type": "WordPiece"}}, "GGUF names the way a tokenizer cuts text"),
        ({"model": {"type": "Unigram"}}, "a tokenizer of SentencePiece's kind is written as GGUF if it is BPE"),
        ({"model": {"type": "BPE"}, "pre_tokenizer": BYTES}, ""),
        (None, ""),
    ],
)
def test_gguf_of_a_tokenizer_without_a_name_is_refused_by_the_look(job, directory, mirror, tokenizer, refused):
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (directory / "tokenizer.json").unlink(missing_ok=True)
    if tokenizer is not None:
        (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    mirror.serve("owner/name", directory)
    wanted = job({"base_model": {"provider": "huggingface", "model_name": "owner/name"}, "export": {"gguf": True}})
    if not refused:
        assert probe(wanted)["outcome"] == "PASSED"
        return
    with pytest.raises(InputError, match=rf"^export\.gguf: {refused}") as caught:
        probe(wanted)
    assert caught.value.reason == "CONFIG_INVALID"
