"""Datasets and models from S3, with the request's own roles."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agent.inputs.failures import InputError
from agent.inputs.fetch import fetch
from agent.inputs.probe import probe
from tests.integration.inputs.conftest import LOCAL, Told
from tests.support.aws import OWN_KEY

ROLE = "arn:aws:iam::123:role/FineTune"
SOURCE = "s3://bucket/data/rows.jsonl"
ROWS = b'{"text": "a row"}\n' * 3


def datasets(*sources, **more):
    return {"datasets": [{"source": source, **more} for source in sources]}


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return caught.value


def test_a_dataset_is_read_with_its_own_role_named_after_the_job(store, job):
    store.put(SOURCE, ROWS)
    told = Told()
    found = fetch(job(datasets(SOURCE, auth={"role_arn": ROLE})), told)["inputs"]
    [dataset] = found["datasets"]
    assert Path(dataset["path"]).read_bytes() == ROWS
    assert found["model"] == {"path": LOCAL["model_name"], "name": LOCAL["model_name"], "commit": ""}
    [(key, given)] = store.door.sessions.items()
    assert given == (ROLE, "unique-train-id")
    assert "GetObject" in store.door.operations(by=key)
    assert store.door.operations(by=OWN_KEY) == ["AssumeRole"]
    assert told.phases == ["PREPARING_DATA"]
    assert told.expected == [len(ROWS)]


def test_every_dataset_has_its_place_in_the_specs_order(store, job, tmp_path):
    store.put("s3://bucket/a.jsonl", b"a")
    store.put("s3://bucket/b.jsonl", b"b")
    local = tmp_path / "l.jsonl"
    local.write_bytes(b"l")
    found = fetch(job(datasets("s3://bucket/a.jsonl", local.as_uri(), "s3://bucket/b.jsonl")), Told())["inputs"]
    paths = [dataset["path"] for dataset in found["datasets"]]
    assert [Path(path).read_bytes() for path in paths] == [b"a", b"l", b"b"]
    assert [path.rpartition(".")[2] for path in paths] == ["jsonl"] * 3


def test_what_was_fetched_before_is_not_fetched_again(store, job):
    store.put(SOURCE, ROWS)
    fetch(job(datasets(SOURCE)), Told())
    store.door.calls.clear()
    fetch(job(datasets(SOURCE)), Told())
    assert store.door.operations() == []


def test_where_everything_is_here_nothing_is_done(job):
    assert fetch(job(datasets("file:///data/rows.jsonl")), Told()) == {"inputs": None, "commit": ""}


@pytest.mark.parametrize(
    ("source", "reason"),
    [("s3://bucket/data/none.jsonl", "DATASET_NOT_FOUND"), ("s3://no-such-bucket/rows.jsonl", "BUCKET_NOT_FOUND")],
)
def test_a_dataset_that_is_not_there_names_its_field(store, job, source, reason):
    store.put(SOURCE, ROWS)
    refused = refusal(fetch, job(datasets(SOURCE, source)), Told())
    assert (refused.reason, refused.lasting) == (reason, True)
    assert "datasets[1].source" in str(refused)


def test_a_role_that_may_not_read_names_its_field(store, job):
    store.put(SOURCE, ROWS)
    store.door.refuse("GetObject", "HeadObject", code="AccessDenied", status=403)
    refused = refusal(fetch, job(datasets(SOURCE, auth={"role_arn": ROLE})), Told())
    assert refused.reason == "STORAGE_DENIED"
    assert "datasets[0].auth.role_arn" in str(refused)


def test_a_role_that_may_not_be_assumed_names_its_field(store, job):
    store.put(SOURCE, ROWS)
    store.door.refuse("AssumeRole", code="AccessDenied", status=403)
    refused = refusal(fetch, job(datasets(SOURCE, auth={"role_arn": ROLE})), Told())
    assert refused.reason == "STORAGE_DENIED"
    assert "datasets[0].auth.role_arn" in str(refused)


def test_a_download_that_is_cut_off_leaves_no_file_that_passes_for_whole(store, job):
    store.put(SOURCE, bytes(3_000_000))
    store.door.cut_answer("GetObject", after_bytes=1_000_000, times=1000)
    refused = refusal(fetch, job(datasets(SOURCE)), Told())
    assert (refused.reason, refused.lasting) == ("STORAGE_UNAVAILABLE", False)
    assert list((job({}).directory / "inputs").rglob("*.jsonl")) == []


def put_model(store, prefix, directory):
    for path in directory.rglob("*"):
        if path.is_file():
            store.put(f"{prefix}{path.relative_to(directory)}", path.read_bytes())


@pytest.mark.parametrize(
    "base_model",
    [
        {"provider": "s3", "model_name": "s3://bucket/models/tiny/"},
        {"provider": "huggingface", "model_name": "owner/name", "weights_url": "s3://bucket/models/tiny/"},
    ],
)
def test_a_model_directory_of_s3_is_fetched_without_what_can_run_code(store, job, directory, base_model):
    put_model(store, "s3://bucket/models/tiny/", directory)
    wanted = job({"base_model": base_model})
    assert probe(wanted) == {"outcome": "PASSED", "commit": ""}
    model = fetch(wanted, Told())["inputs"]["model"]
    assert (model["name"], model["commit"]) == (base_model["model_name"], "")
    path = Path(model["path"])
    assert path.is_relative_to(wanted.settings.cache_dir)
    assert sorted(each.name for each in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


MODEL = "s3://bucket/models/tiny/"
OF_S3 = {"base_model": {"provider": "s3", "model_name": MODEL}}


def attempt(tmp_path, number):
    directory = tmp_path / "attempts" / f"JOB.{number}"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def gets(store):
    return sorted(call.key.rpartition("/")[2] for call in store.door.calls if call.operation == "GetObject")


def test_a_second_job_on_the_node_downloads_nothing_of_a_model_that_is_the_same(store, job, directory, tmp_path):
    put_model(store, MODEL, directory)
    first = fetch(job(OF_S3, directory=attempt(tmp_path, 1)), Told())["inputs"]["model"]
    assert gets(store) == ["config.json", "model.safetensors", "tokenizer.json"]
    store.door.calls.clear()
    again = fetch(job(OF_S3, directory=attempt(tmp_path, 2)), Told())["inputs"]["model"]
    assert again == first
    assert gets(store) == []
    by_url = {"base_model": {"provider": "huggingface", "model_name": "owner/name", "weights_url": MODEL}}
    other = fetch(job(by_url, directory=attempt(tmp_path, 3)), Told())["inputs"]["model"]
    assert (other["path"], other["name"]) == (first["path"], "owner/name")
    assert gets(store) == []


def test_of_a_model_that_is_here_only_what_was_replaced_comes_again_also_where_it_is_as_long(
    store, job, directory, tmp_path
):
    put_model(store, MODEL, directory)
    before = Path(fetch(job(OF_S3, directory=attempt(tmp_path, 1)), Told())["inputs"]["model"]["path"])
    content = (directory / "model.safetensors").read_bytes()
    other = bytes(reversed(content))
    store.put(f"{MODEL}model.safetensors", other)
    store.door.calls.clear()
    after = Path(fetch(job(OF_S3, directory=attempt(tmp_path, 2)), Told())["inputs"]["model"]["path"])
    assert gets(store) == ["model.safetensors"]
    assert (after / "model.safetensors").read_bytes() == other
    assert (after / "config.json").read_bytes() == (directory / "config.json").read_bytes()
    assert (before / "model.safetensors").read_bytes() == content, "a job may be training on it"


def test_projects_share_no_model_of_s3(store, job, directory, tmp_path):
    put_model(store, MODEL, directory)
    first = fetch(job(OF_S3, directory=attempt(tmp_path, 1)), Told())["inputs"]["model"]
    other = fetch(job(OF_S3, directory=attempt(tmp_path, 2), project="other"), Told())["inputs"]["model"]
    assert other["path"] != first["path"]
    assert len(gets(store)) == 6


def test_who_may_not_read_gets_nothing_of_a_model_that_is_here(store, job, directory, tmp_path):
    put_model(store, MODEL, directory)
    fetch(job(OF_S3, directory=attempt(tmp_path, 1)), Told())
    store.door.refuse("HeadObject", "GetObject", code="AccessDenied", status=403)
    refused = refusal(fetch, job(OF_S3, directory=attempt(tmp_path, 2)), Told())
    assert refused.reason == "STORAGE_DENIED"
    assert str(refused).startswith("base_model.model_name: ")


def test_a_model_that_is_replaced_while_it_is_fetched_is_not_kept_for_what_it_was(store, job, directory, tmp_path):
    put_model(store, MODEL, directory)

    class Replacing(Told):
        def expects(self, folder, size_bytes):
            store.put(f"{MODEL}tokenizer.json", b'{"other": 1}')

    refused = refusal(fetch, job(OF_S3, directory=attempt(tmp_path, 1)), Replacing())
    assert (refused.reason, refused.lasting) == ("STORAGE_UNAVAILABLE", False)
    assert "tokenizer.json was replaced" in str(refused)
    model = fetch(job(OF_S3, directory=attempt(tmp_path, 1)), Told())["inputs"]["model"]
    assert (Path(model["path"]) / "tokenizer.json").read_bytes() == b'{"other": 1}'


def test_what_was_cut_off_is_not_kept_and_the_next_try_goes_on_with_the_rest(store, job, directory, tmp_path):
    put_model(store, MODEL, directory)
    store.door.cut_answer("GetObject", after_bytes=100, times=1000)
    assert refusal(fetch, job(OF_S3), Told()).reason == "STORAGE_UNAVAILABLE"
    store.door.reset()
    model = fetch(job(OF_S3), Told())["inputs"]["model"]
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (Path(model["path"]) / name).read_bytes() == (directory / name).read_bytes()
    assert sorted(path.name for path in Path(model["path"]).iterdir()) == sorted(
        ["config.json", "model.safetensors", "tokenizer.json"]
    )


def test_models_of_s3_count_for_the_cache_s_limit_and_the_longest_unused_goes(
    store, job, directory, settings, tmp_path
):
    put_model(store, MODEL, directory)
    put_model(store, "s3://bucket/models/other/", directory)
    small = replace(settings, cache_bytes=400_000)  # one of them
    first, second = attempt(tmp_path, 1), attempt(tmp_path, 2)
    kept = fetch(job(OF_S3, directory=first, settings=small), Told())["inputs"]["model"]["path"]
    shutil.rmtree(first)
    other = {"base_model": {"provider": "s3", "model_name": "s3://bucket/models/other/"}}
    fetch(job(other, directory=second, settings=small), Told())
    assert not Path(kept).exists()


@pytest.mark.parametrize("call", [lambda wanted: fetch(wanted, Told()), probe], ids=["fetch", "probe"])
def test_a_prefix_without_a_model_that_loads_is_refused(store, job, call):
    weights = {"provider": "huggingface", "model_name": "owner/name", "weights_url": "s3://bucket/models/tiny/"}
    refused = refusal(call, job({"base_model": weights}))
    assert refused.reason == "MODEL_NOT_FOUND"
    assert str(refused).startswith("base_model.weights_url: ")
    store.put("s3://bucket/models/tiny/pytorch_model.bin", b"pickled")
    refused = refusal(call, job({"base_model": weights}))
    assert refused.reason == "MODEL_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("call", [lambda wanted: fetch(wanted, Told()), probe], ids=["fetch", "probe"])
@pytest.mark.parametrize(
    ("model", "refused", "reason", "words"),
    [
        ("s3://no-such-bucket/tiny/", None, "BUCKET_NOT_FOUND", "bucket 'no-such-bucket' does not exist"),
        ("s3://bucket/models/tiny/", ("AccessDenied", 403), "STORAGE_DENIED", "allow s3:ListBucket there to the agent"),
        ("s3://bucket/models/tiny/", ("InvalidAccessKeyId", 403), "STORAGE_DENIED", "correct them"),
        ("s3://bucket/models/tiny/", ("ExpiredToken", 400), "STORAGE_DENIED", "the agent's credentials have expired"),
    ],
)
def test_a_model_that_may_not_be_read_says_what_would_help(store, job, call, model, refused, reason, words):
    if refused:
        store.door.refuse("ListObjectsV2", code=refused[0], status=refused[1])
    said = refusal(call, job({"base_model": {"provider": "s3", "model_name": model}}))
    assert (said.reason, said.lasting) == (reason, True)
    assert str(said).startswith("base_model.model_name: ")
    assert words in str(said)
