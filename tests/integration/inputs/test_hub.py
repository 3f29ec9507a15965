"""The hub as the real client library sees it, against a mirror that answers as the real one does."""

from __future__ import annotations

import os

import pytest

from agent.inputs import choice
from agent.inputs.failures import InputError
from agent.inputs.hub import Hub, is_whole
from agent.inputs.models import ModelWanted, look
from tests.integration.inputs.conftest import LARGE_BYTES

NAME, TOKEN = "meta-llama/Llama-2-7b", "hf_right"


def hub(mirror, tmp_path, token=TOKEN):
    return Hub(mirror.url, token, tmp_path / "home")


def wanted(name=NAME, revision="main", weights_url=""):
    return ModelWanted("huggingface", name, revision, weights_url)


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return caught.value.reason, str(caught.value)


def test_a_revision_becomes_a_commit_and_the_files_that_may_be_loaded(mirror, directory, tmp_path):
    commit = mirror.serve(NAME, directory, token=TOKEN)
    snapshot = look(hub(mirror, tmp_path), wanted())
    assert snapshot.commit == commit
    assert [file.name for file in snapshot.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert look(hub(mirror, tmp_path), wanted(revision=commit)).commit == commit


def test_files_arrive_whole_and_only_the_hub_itself_is_shown_the_token(mirror, directory, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    snapshot = look(hub(mirror, tmp_path), wanted())
    for file in snapshot.files:
        hub(mirror, tmp_path).download(snapshot, file, tmp_path / "out")
        assert (tmp_path / "out" / file.name).read_bytes() == (directory / file.name).read_bytes()
    assert mirror.bodies() == 1
    assert [asked.authorized for asked in mirror.asked_for("/linked/")] == [False]


@pytest.mark.parametrize(
    ("name", "revision", "token", "reason", "field"),
    [
        (NAME, "main", "hf_wrong", "HUB_UNAUTHORIZED", "base_model.auth_token"),
        (NAME, "main", None, "HUB_UNAUTHORIZED", "base_model.auth_token"),
        ("meta-llama/gated", "main", "hf_wrong", "HUB_UNAUTHORIZED", "base_model.auth_token"),
        ("meta-llama/gated", "main", "hf_other", "HUB_UNAUTHORIZED", "base_model.auth_token"),
        ("meta-llama/gated", "main", None, "HUB_UNAUTHORIZED", "base_model.auth_token"),
        ("meta-llama/none", "main", TOKEN, "MODEL_NOT_FOUND", "base_model.model_name"),
        (NAME, "v9", TOKEN, "MODEL_NOT_FOUND", "base_model.revision"),
    ],
)
def test_each_refusal_has_its_reason_and_names_its_field(
    mirror, directory, tmp_path, name, revision, token, reason, field
):
    mirror.serve(NAME, directory, token=TOKEN)
    mirror.serve("meta-llama/gated", directory, token=TOKEN, gated=True)
    mirror.serve("someone/else", directory, token="hf_other")
    said, message = refusal(look, hub(mirror, tmp_path, token), wanted(name, revision))
    assert said == reason
    assert message.startswith(f"{field}: ")
    assert "hf_" not in message


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_does_not_answer_as_it_should_is_worth_another_try(mirror, directory, tmp_path, status):
    mirror.serve(NAME, directory)
    mirror.faults.statuses = [status] * 50
    with pytest.raises(InputError) as caught:
        look(hub(mirror, tmp_path), wanted())
    assert caught.value.reason == "HUB_UNAVAILABLE"
    assert not caught.value.lasting


def test_a_hub_that_is_not_there_is_worth_another_try(tmp_path):
    reason, message = refusal(look, Hub("http://127.0.0.1:1", None, tmp_path), wanted())
    assert reason == "HUB_UNAVAILABLE"
    assert "http://127.0.0.1:1" in message


def test_a_repository_without_safetensors_is_refused_by_its_list_of_files(mirror, tmp_path):
    consolidated = tmp_path / "consolidated"
    consolidated.mkdir()
    (consolidated / "consolidated.00.pth").write_bytes(b"pickled")
    (consolidated / "params.json").write_text("{}")
    mirror.serve(NAME, consolidated, token=TOKEN)
    reason, message = refusal(look, hub(mirror, tmp_path), wanted())
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert "consolidated.00.pth" in message
    assert "-hf" not in message
    assert mirror.asked_for("/resolve/") == []


def test_the_sibling_that_has_safetensors_is_named_and_never_taken(mirror, directory, tmp_path):
    consolidated = tmp_path / "consolidated"
    consolidated.mkdir()
    (consolidated / "consolidated.00.pth").write_bytes(b"pickled")
    mirror.serve(NAME, consolidated, token=TOKEN)
    mirror.serve(f"{NAME}-hf", directory, token=TOKEN)
    reason, message = refusal(look, hub(mirror, tmp_path), wanted())
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert f"use {NAME}-hf" in message


def test_a_file_that_was_altered_on_the_way_is_not_kept(mirror, directory, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    snapshot = look(hub(mirror, tmp_path), wanted())
    mirror.faults.altered = "model.safetensors"
    weights = snapshot.file("model.safetensors")
    reason, message = refusal(hub(mirror, tmp_path).download, snapshot, weights, tmp_path / "out")
    assert reason == "HUB_UNAVAILABLE"
    assert "another content" in message
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_download_that_was_cut_off_goes_on_where_it_was(mirror, directory, tmp_path):
    (directory / "model.safetensors").write_bytes(os.urandom(LARGE_BYTES))
    mirror.serve(NAME, directory, token=TOKEN)
    snapshot = look(hub(mirror, tmp_path), wanted())
    mirror.faults.cut_after_bytes = LARGE_BYTES - 1_000_000
    hub(mirror, tmp_path).download(snapshot, snapshot.file("model.safetensors"), tmp_path / "out")
    assert is_whole(tmp_path / "out" / "model.safetensors", snapshot.file("model.safetensors"))
    first, second = mirror.asked_for("/linked/")
    assert first.range == ""
    assert second.range == f"bytes={20 << 20}-"


def test_no_token_is_written_to_disk(mirror, directory, tmp_path):
    mirror.serve(NAME, directory, token=TOKEN)
    snapshot = look(hub(mirror, tmp_path), wanted())
    for file in snapshot.files:
        hub(mirror, tmp_path).download(snapshot, file, tmp_path / "out")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > len(snapshot.files)
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["config.json", *SHARDS, "pytorch_model.bin"], ["config.json", *SHARDS]),
        (["config.json", "model.safetensors", "model.fp16.safetensors"], ["config.json", "model.safetensors"]),
        (["config.json", "model.safetensors", *SHARDS], ["config.json", "model.safetensors"]),
        (["config.json", "onnx/model.safetensors", "model.safetensors"], ["config.json", "model.safetensors"]),
        (
            ["config.json", "model.safetensors", "tokenizer.model", "custom.py", "a.tiktoken", "x/b.tiktoken"],
            ["a.tiktoken", "config.json", "model.safetensors", "tokenizer.model"],
        ),
    ],
)
def test_the_files_that_make_a_model_and_no_others_are_chosen(there, chosen):
    assert choice.model_files("a/b", there, field="base_model.model_name") == chosen


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (["config.json", "adapter_config.json", "model.safetensors"], "adapter"),
        (["config.json", "pytorch_model.bin"], "pytorch_model.bin"),
        (["config.json", "consolidated.safetensors"], "consolidated.safetensors"),
        (["model.safetensors"], "no config.json"),
        ([], "no file"),
    ],
)
def test_what_is_no_model_that_may_be_loaded_is_refused_in_words(there, says):
    reason, message = refusal(lambda: choice.model_files("a/b", there, field="base_model.model_name"))
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert says in message
